"""The page in a browser: it draws, it follows the hand, it asks for nothing, it fits a phone."""

import pytest
from browser import Browser, chromium
from made_comparison import made_comparison

from ringattn.report.comparison_page import write_page

pytestmark = pytest.mark.skipif(chromium() is None, reason="no chromium on the PATH: see CONTRIBUTING.md")

# Colors of the canvas, as one number that changes with what is drawn, and how many there are.
PICTURE = """(() => {
  const { width, height } = document.getElementById("canvas");
  const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(document.getElementById("canvas"), 0, 0);
  const { data } = copy.getImageData(0, 0, width, height);
  let sum = 0;
  const colors = new Set();
  for (let n = 0; n < data.length; n += 4) {
    const color = data[n] * 65536 + data[n + 1] * 256 + data[n + 2];
    sum = (sum * 31 + color) % 1000000007;
    colors.add(color);
  }
  return [sum, colors.size];
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    started = Browser(tmp_path_factory.mktemp("browser"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(made_comparison(schedules=("ring", "tokenring", "ulysses", "grid:heads=1,queries=2,keys=2")), path)
    return path


@pytest.fixture
def page(browser, path):
    browser.open(path)
    yield browser
    assert browser.complaints() == []
    assert browser.requests() == []


def picture(page):
    page.settle()
    return page.evaluate(PICTURE)[0]


def text(page, selector):
    return page.evaluate(f"document.querySelector({selector!r}).textContent")


def change(page, selector, how):
    page.evaluate(
        f"(() => {{ const it = document.querySelector({selector!r}); {how}; "
        "it.dispatchEvent(new Event('change', { bubbles: true })); })()"
    )


def middle(page):
    """Of the timeline, once it is in view."""
    page.evaluate("document.getElementById('timeline').scrollIntoView({ block: 'center' })")
    box = page.evaluate(
        "(({ x, y, width, height }) => [x, y, width, height])"
        "(document.getElementById('timeline').getBoundingClientRect())"
    )
    return box[0] + box[2] / 2, box[1] + box[3] / 2


def test_it_draws(page):
    assert page.evaluate(PICTURE)[1] > 20
    assert page.evaluate("document.querySelectorAll('#bars-forward .row').length") == 4
    assert page.evaluate("[...document.querySelectorAll('.track .bar')].every((bar) => bar.offsetWidth > 0)")
    assert page.evaluate("document.querySelectorAll('#table tbody tr').length") == 5
    assert page.evaluate("document.querySelectorAll('#links .track').length") == 4
    assert page.evaluate("document.querySelectorAll('#ranks tbody tr').length") == 4


def test_it_is_drawn_in_the_readers_colors(page, path):
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    before = picture(page)
    page.open(path, dark=True)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    assert picture(page) != before


def test_pickers_change_what_is_shown(page):
    seen = {picture(page)}
    change(page, "#pick-schedule", "it.value = '2'")
    seen.add(picture(page))
    change(page, "[value=backward]", "it.checked = true")
    seen.add(picture(page))
    change(page, "#pick-source", "it.value = 'predicted'")
    seen.add(picture(page))
    page.evaluate("document.getElementById('pick-arrows').click()")
    seen.add(picture(page))
    assert len(seen) == 5
    assert "ulysses, backward" in page.evaluate("document.getElementById('timeline').getAttribute('aria-label')")


def test_a_bar_s_name_picks_its_schedule(page):
    page.evaluate("document.querySelector('#bars-backward button[data-index=\"1\"]').click()")
    assert page.evaluate("document.getElementById('pick-schedule').value") == "1"
    assert page.evaluate("document.getElementById('pickers').elements.direction.value") == "backward"
    pressed = page.evaluate("[...document.querySelectorAll('[aria-pressed=true]')].map((it) => it.textContent)")
    assert pressed == ["tokenring"]


def test_buttons_keys_wheel_and_drag_move_the_view(page):
    x, y = middle(page)
    whole = text(page, "#view")
    page.evaluate("document.querySelector('[data-tool=in]').click()")
    page.settle()
    zoomed = text(page, "#view")
    assert zoomed != whole
    page.drag((x, y), (x - 200, y))
    dragged = text(page, "#view")
    assert dragged != zoomed
    page.press("ArrowLeft")
    assert text(page, "#view") != dragged
    before = text(page, "#view")
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-200)
    page.settle()
    assert text(page, "#view") != before
    page.press("0")
    assert text(page, "#view") == whole


def test_the_wheel_scrolls_the_page_until_the_timeline_is_chosen(page):
    x, y = middle(page)
    before = text(page, "#view")
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-40)
    page.settle()
    assert text(page, "#view") == before
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-40, modifiers=2)
    page.settle()
    assert text(page, "#view") != before


def test_pointing_tells_what_an_event_is(page):
    page.evaluate("document.getElementById('timeline').scrollIntoView()")
    x, y = page.evaluate("(({ x, y }) => [x, y])(document.getElementById('timeline').getBoundingClientRect())")
    # The send of rank 0 in its first step: below the axis, a title and the lane of tasks.
    page.mouse("mouseMoved", x + 120, y + 28 + 18 + 15 + 6)
    page.settle()
    assert not page.evaluate("document.getElementById('tip').hidden")
    words = text(page, "#tip").split("\n")
    assert words[:2] == ["send, step 0", "rank 0, measured"]
    assert words[3] == "to rank 1" and words[4].startswith("32.0 MiB, ")
    page.mouse("mouseMoved", 2, 2)
    page.settle()
    assert page.evaluate("document.getElementById('tip').hidden")


def test_keys_alone_reach_every_event(page):
    page.evaluate("document.getElementById('timeline').focus()")
    found = []
    for key in ("j", ".", "j", "j"):
        page.press(key)
        found.append(text(page, "#event").split(";")[0])
    assert found == ["post, step 0", "compute, step 0", "send, step 0", "receive, step 0"]


def test_the_table_sorts_by_any_column(page):
    names = "[...document.querySelectorAll('#table tbody tr')].map((row) => row.cells[0].textContent)"
    times = (
        "[...document.querySelectorAll('#table tbody tr:not(.skipped)')]"
        ".map((row) => Number(row.cells[1].dataset.value))"
    )
    press = "document.querySelectorAll('#table thead button')[{}].click()"
    page.evaluate(press.format(1))
    assert page.evaluate(times) == sorted(page.evaluate(times))
    page.evaluate(press.format(1))
    assert page.evaluate(times) == sorted(page.evaluate(times), reverse=True)
    # What has no value stays last in either order.
    assert page.evaluate(names)[-1] == "biring"
    page.evaluate(press.format(0))
    assert page.evaluate(names) == ["biring", "grid:heads=1,queries=2,keys=2", "ring", "tokenring", "ulysses"]


def test_it_fits_a_phone(page, path):
    page.open(path, width=390, height=844, mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    # The table is wider than its box, which scrolls.
    assert page.evaluate(
        "(({ scrollWidth, clientWidth }) => scrollWidth > clientWidth)(document.getElementById('table'))"
    )
    assert page.evaluate(PICTURE)[1] > 20


def test_two_fingers_zoom(page, path):
    page.open(path, width=390, height=844, mobile=True)
    x, y = middle(page)
    before = text(page, "#view")

    def touch(kind, *spots):
        points = [{"x": px, "y": y, "id": number} for number, px in enumerate(spots)]
        page.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    touch("touchStart", x - 20, x + 20)
    for apart in (30, 50, 80):
        touch("touchMove", x - apart, x + apart)
    touch("touchEnd")
    page.settle()
    assert text(page, "#view") != before
    assert page.evaluate("visualViewport.scale") == 1


def test_a_page_without_runs_is_quiet(browser, tmp_path):
    write_page(made_comparison(schedules=()), tmp_path / "none.html")
    browser.open(tmp_path / "none.html")
    assert browser.complaints() == []
    assert browser.evaluate("document.getElementById('detail').hidden")


def test_sixty_four_ranks_open(browser, tmp_path):
    write_page(made_comparison(ranks=64, schedules=("tokenring",), steps=20), tmp_path / "many.html")
    browser.open(tmp_path / "many.html")
    before = picture(browser)
    browser.evaluate("document.getElementById('timeline').scrollTop = 3000")
    assert picture(browser) != before
    assert browser.complaints() == []
