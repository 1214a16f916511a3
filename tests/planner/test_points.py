"""Points of the grid: each is a schedule that can be built and proven, and the literature's names come out."""

import re

import pytest

from ringattn.planner.points import Point, points
from ringattn.schedule import make_schedule
from ringattn.schedule.value import Shape
from ringattn.schedule.verify import verify


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6, 8])
def test_every_point_is_a_correct_schedule(world):
    shape = Shape(world, 4, 2)
    for point in points(shape, hosts=2 if world % 2 == 0 else 1):
        verify(make_schedule(point.spec(), shape), backward=True)


@pytest.mark.parametrize(
    ("point", "name"),
    [
        (Point(queries=8, home="along"), "ring"),
        (Point(queries=8, key_route="both", home="along"), "biring"),
        (Point(keys=8), "tokenring"),
        (Point(keys=8, query_route="back"), "tokenring:back=1"),
        (Point(keys=8, query_route="apart"), "tokenring:back=2"),
        (Point(queries=8, key_route="direct"), "allgather"),
        (Point(heads=8, overlap="no"), "ulysses"),
        (Point(heads=2, queries=4, home="along"), "usp:heads=2"),
        (Point(queries=2, keys=4), "tile:rows=2"),
        (Point(queries=8, key_route="levels", inner=4, home="along"), "doublering:inner=4"),
    ],
)
def test_named_points_are_the_named_schedules(point, name):
    shape = Shape(8, 8, 8)
    assert point.spec() == name
    named, numbered = make_schedule(name, shape), make_schedule(point.numbers(), shape)
    assert (named.steps, named.heads) == (numbered.steps, numbered.heads)


def test_a_point_without_a_name_is_its_numbers():
    assert Point(heads=2, queries=2, keys=2).spec() == "grid:heads=2,queries=2,keys=2"
    assert Point(queries=4, key_route="both").spec() == "grid:heads=1,queries=4,keys=1,key_route=both"


def test_all_named_points_of_eight_ranks_are_listed():
    listed = {point.spec() for point in points(Shape(8, 8, 8), hosts=2)}
    assert {"ring", "biring", "tokenring", "allgather", "ulysses", "usp:heads=2", "usp:heads=4"} <= listed
    assert {"tile:rows=2", "tile:rows=4", "doublering:inner=4"} <= listed


def test_no_more_head_groups_than_heads():
    assert max(point.heads for point in points(Shape(8, 2, 2))) == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("grid:queries=4,key_route=bth", "unknown route 'bth' (did you mean 'both'?)"),
        ("grid:queries=4,home=around", "grid: home must be one of straight, along, got 'around'"),
        ("grid:queries=4,key_route=levels", "route 'levels' needs inner="),
    ],
)
def test_words_that_do_not_fit(spec, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_schedule(spec, Shape(4, 8, 8))
