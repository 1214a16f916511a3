"""docs/choosing-a-schedule.md: its pictures and tables are what the planner predicts."""

import sys
from xml.etree import ElementTree

import pytest
from hosts import SCRIPTS

sys.path.insert(0, str(SCRIPTS))

import draw_choosing
from choosing.cases import MESH, PORTS, SWITCH, Call, cluster_of, ideal, pairs, timed
from choosing.charts import Axis, Series, lines
from choosing.found import best, calls, everything, searched


@pytest.fixture(scope="module")
def drawn():
    return draw_choosing.drawn()


def test_the_document_is_what_the_planner_predicts(drawn):
    stale = [
        str(path.relative_to(draw_choosing.ROOT))
        for path, text in drawn.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert stale == [], "run: python scripts/draw_choosing.py, and see whether the text still says what the figures do"


def test_every_picture_is_small_readable_and_shown(drawn):
    document = draw_choosing.DOCUMENT.read_text(encoding="utf-8")
    pictures = {path.name: text for path, text in drawn.items() if path.suffix == ".svg"}
    assert {path.name for path in draw_choosing.PICTURES.iterdir()} == set(pictures)
    for name, picture in pictures.items():
        assert ElementTree.fromstring(picture).tag.endswith("svg")
        assert len(picture) < 60_000
        assert f"](pictures/choosing/{name})" in document


def test_what_was_found_is_there_for_every_call():
    assert [(entry.call, entry.backward) for entry in everything()] == [
        (call, backward) for call in calls() for backward in (False, True)
    ]


def test_links_alone_take_as_long_as_the_bytes_of_the_busiest():
    """Four ranks, 8,192 tokens each, 32 heads of 128 in bf16: k and v are 128 MiB, and go three hops over 25 GB/s."""
    for cluster in (MESH, SWITCH):
        time = timed(Call(cluster, 4, 8192, 32, causal=False), "ring", backward=False)
        assert time.seconds == pytest.approx(3 * 2**27 / 25e9)
        assert time.compute == pytest.approx(0, abs=1e-9)


def test_a_port_for_each_rank():
    cluster = cluster_of(PORTS, 8)
    assert len(set(cluster.hosts)) == 8
    assert min(cluster.lanes[lane].bandwidth for lane in cluster.way(0, 1).lanes) == 40e9


def test_the_ideal_is_the_visible_products_at_the_best_rate():
    call = Call("h100_8x", 2, 512, causal=False)
    assert pairs(call) == 1024**2
    assert ideal(call, backward=False) == pytest.approx(4 * 128 * 32 * 1024**2 / 2 / 648e12)


def test_a_large_world_takes_points_of_the_grid_alone():
    with pytest.raises(ValueError, match="multiring is no point of the grid over 64 ranks"):
        timed(Call("h100_8x", 64, 2048), "multiring", backward=False)


def test_a_line_runs_between_its_axes():
    across, up = Axis([(1, "1"), (4, "4")]), Axis([(0, "0"), (10, "10")], logarithmic=False)
    assert [across.place(value) for value in (1, 2, 4, 8)] == [0, 0.5, 1, 1]
    parts = lines(0, 0, 154, 174, title="", across=across, up=up, label="", series=[Series("ring", [(1, 0), (4, 10)])])
    assert any('d="M44 134 L144 34"' in part for part in parts)


@pytest.mark.slow
@pytest.mark.parametrize("call", [call for call in calls() if call.ranks <= 8], ids=str)
def test_a_search_finds_the_same_again(call):
    assert searched(call) == [best(call, backward=backward) for backward in (False, True)]
