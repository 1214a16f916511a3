"""Routes of states in words: the best first, and reasons that the figures bear out."""

from ringattn.planner.states import RouteCandidate
from ringattn.report.state_routes import describe_route, routes_text
from ringattn.schedule.states import StateSizes, Transition, make_state_route

SIZES = StateSizes(batch=1, heads=4, key_dim=16, value_dim=16, transition=Transition.DIAGONAL)


def candidate(route, seconds, *, steps, wire=1e-3, sent=4096):
    return RouteCandidate(route, seconds, seconds, "a > b", wire, steps, sent, 2 * sent)


def test_the_best_route_and_why_not_the_others():
    found = [
        candidate("allgather", 0.002, steps=1),
        candidate("pipeline:slices=2", 0.003, steps=4),
        candidate("ring", 0.004, steps=3),
    ]
    title, _, _, first, *lines = routes_text("gla", SIZES, 4, "zigzag", found).splitlines()
    words = " ".join(" ".join(lines).split())
    assert title.startswith("One gla layer's states: 4 heads of 16 x 16 in 32 bits, and a decay of each row")
    assert first.split() == ["allgather", "2.000", "2.000", "1", "0.004", "0.008", "1.000", "a", ">", "b"]
    assert (
        "allgather: a state has 4.0 KiB and a transition 256 B, whatever the length; all travel in one exchange, and a "
        "rank sends up to 4.0 KiB and holds 8.0 KiB of others."
    ) in words
    assert "ring takes 2.00 times as long: 3 exchanges follow one another instead of 1, each with its start." in words
    assert "pipeline:slices=2, the best pipeline, takes 1.50 times as long: 4 exchanges" in words


def test_a_busy_link_and_whole_states_are_reasons_too():
    found = [candidate("pipeline:slices=4", 0.002, steps=6), candidate("ring", 0.003, steps=3)]
    assert "each of its 3 exchanges carries the whole state" in routes_text("gla", SIZES, 4, "zigzag", found)
    found = [candidate("ring", 0.002, steps=3), candidate("allgather", 0.003, steps=1, wire=2e-3)]
    assert "its busiest link, a > b, takes 2.000 ms instead of 1.000" in routes_text("gla", SIZES, 4, "zigzag", found)


def test_the_steps_of_a_route_as_a_table():
    assert describe_route(make_state_route("ring", 2, (0, 1, 0))).splitlines() == [
        "step  rank  computes        sends         receives",
        "----  ----  --------------  ------------  --------------",
        "   0     0  state 0 past 0  state 1 to 1  -",
        "         1  -               -             state 1 from 0",
        "   1     0  -               -             state 2 from 1",
        "         1  state 1 past 1  state 2 to 0  -",
    ]
    gathered = describe_route(make_state_route("allgather", 2, (0, 1, 0)))
    assert "   0     0  -                               effect 0 to 1  effect 1 from 1" in gathered
    assert "state 0.1 past 0  state 1.1 to 1" in describe_route(make_state_route("pipeline:slices=2", 2, (0, 1, 0)))
    assert "joins 1 and 2" in describe_route(make_state_route("scan", 5, (0, 1, 2, 3, 4)))
