"""The picture of a schedule: well-formed, with every block, task and move in it, and no text on other text."""

import re
from xml.etree import ElementTree

import pytest

from ringattn.report.schedule_picture import draw, draw_maps
from ringattn.report.svg import color
from ringattn.schedule import make_schedule, schedules
from ringattn.schedule.prune import prune
from ringattn.schedule.value import Shape
from ringattn.sequence.blocks import visible_blocks
from ringattn.sequence.layout import make_layout
from ringattn.sequence.mask import Mask

SVG = "{http://www.w3.org/2000/svg}"


def build(name, world):
    spec = f"grid:heads=1,queries={world},keys=1" if name == "grid" else name
    return make_schedule(spec, Shape(world, query_heads=8, key_heads=4))


def boxes(picture):
    """The words of a picture, and the rectangle that each takes up, by the width of an average letter."""
    found = []
    for element in ElementTree.fromstring(picture).iter(f"{SVG}text"):
        style = element.get("class", "")
        size = 16.0 if "title" in style else 11.0 if "small" in style else 12.0
        own = re.search(r"font-size: ([\d.]+)px", element.get("style", ""))
        size = float(own[1]) if own else size
        words = element.text or ""
        width = 0.56 * size * len(words)
        left = float(element.get("x")) - {"start": 0, "middle": width / 2, "end": width}[element.get("text-anchor")]
        base = float(element.get("y"))
        found.append((words, left, base - 0.75 * size, left + width, base))
    return [box for box in found if box[0]]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("world", [1, 2, 4, 7, 8])
@pytest.mark.parametrize("name", schedules())
def test_no_text_lies_on_another_or_outside(name, world, backward):
    picture = draw(build(name, world), backward=backward, subtitle="causal, zigzag")
    root = ElementTree.fromstring(picture)
    width, height = float(root.get("width")), float(root.get("height"))
    words = boxes(picture)
    for index, (_, left, top, right, bottom) in enumerate(words):
        assert left >= 0 and top >= 0 and right <= width and bottom <= height
        for _, left2, top2, right2, bottom2 in words[:index]:
            assert right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top, words[index]


def test_tokenring_shows_each_block_once_and_each_message_as_an_arrow():
    picture = draw(make_schedule("tokenring", Shape(4)))
    root = ElementTree.fromstring(picture)
    arrows = root.findall(f"{SVG}path")
    dashed = [path for path in arrows if path.get("stroke-dasharray")]
    # 12 hops of queries and 12 results on their way home; one arrow of each kind stands in the legend.
    assert (len(arrows) - len(dashed), len(dashed)) == (12 + 1, 12 + 1)
    # In the color of rank 0: 4 blocks in the map, its keys in 4 cells, its queries in 4, its result, its swatch.
    filled = [r for r in root.findall(f"{SVG}rect") if r.get("fill") == color(0)]
    assert len(filled) == 4 + 4 + 4 + 1 + 1


def test_the_forward_passes_over_gradients_of_keys():
    ring = make_schedule("ring", Shape(4))
    assert "dk, dv" not in draw(ring) and "stroke-dasharray" not in draw(ring)
    assert "dk, dv on the way home" in draw(ring, backward=True)


def test_the_map_follows_the_sequence_where_a_layout_is_given():
    layout = make_layout("zigzag", 64, 2)
    schedule = make_schedule("ring", Shape(2))
    causal = prune(schedule, visible_blocks(Mask(), layout, layout))
    words = [word for word, *_ in boxes(draw(causal, layout=layout))]
    assert [word for word in words if word.startswith("k")] == ["k0a", "k1a", "k1b", "k0b", "k, v travel"]


def test_several_maps_stand_side_by_side():
    picture = draw_maps([(name, build(name, 4)) for name in ("ring", "tokenring", "ulysses")], across=2)
    words = [word for word, *_ in boxes(picture)]
    assert {"ring", "tokenring", "ulysses", "heads 0-1"} <= set(words)


def test_colors_differ_for_every_rank_of_a_picture():
    assert len({color(rank) for rank in range(16)}) == 16


def test_too_many_ranks_are_refused():
    with pytest.raises(ValueError, match="at most 16 ranks, got 17: draw fewer ranks, or read the table"):
        draw(make_schedule("ring", Shape(17)))


def test_the_map_leaves_out_what_the_mask_hides_of_a_task():
    layout = make_layout("zigzag", 64, 1)
    whole = make_schedule("ring", Shape(1))
    visible = visible_blocks(Mask(), layout, layout)

    def cells(picture):
        return [r for r in ElementTree.fromstring(picture).findall(f"{SVG}rect") if r.get("width") == "103"]

    assert len(cells(draw(whole, layout=layout))) == 4
    assert len(cells(draw(whole, layout=layout, visible=visible))) == 3
