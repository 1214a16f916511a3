"""Routes of states in words: the best first, and reasons that the figures bear out."""

from ringattn.planner.states import RouteCandidate
from ringattn.report.state_routes import routes_text
from ringattn.schedule.states import StateSizes, Transition

SIZES = StateSizes(batch=1, heads=4, key_dim=16, value_dim=16, transition=Transition.DIAGONAL)


def candidate(route, seconds, *, steps, wire=1e-3, sent=4096):
    return RouteCandidate(route, seconds, seconds, "a > b", wire, steps, sent, 2 * sent)


def test_the_best_route_and_why_not_the_others():
    found = [
        candidate("allgather", 0.002, steps=1),
        candidate("pipeline:slices=2", 0.003, steps=4),
        candidate("ring", 0.004, steps=3),
    ]
    title, _, _, first, *_, why, ring, pipeline = routes_text("gla", SIZES, 4, "zigzag", found).splitlines()
    assert title.startswith("One gla layer's states: 4 heads of 16 x 16 in 32 bits, and a decay of each row")
    assert first.split() == ["allgather", "2.000", "2.000", "1", "0.004", "0.008", "1.000", "a", ">", "b"]
    assert why == (
        "allgather: a state has 4.0 KiB and a transition 256 B, whatever the length; all travel in one exchange, and a "
        "rank sends up to 4.0 KiB and holds 8.0 KiB of others."
    )
    assert ring == "ring takes 2.00 times as long: 3 exchanges follow one another instead of 1, each with its start."
    assert pipeline.startswith("pipeline:slices=2, the best pipeline, takes 1.50 times as long: 4 exchanges")


def test_a_busy_link_and_whole_states_are_reasons_too():
    found = [candidate("pipeline:slices=4", 0.002, steps=6), candidate("ring", 0.003, steps=3)]
    assert "each of its 3 exchanges carries the whole state" in routes_text("gla", SIZES, 4, "zigzag", found)
    found = [candidate("ring", 0.002, steps=3), candidate("allgather", 0.003, steps=1, wire=2e-3)]
    assert "its busiest link, a > b, takes 2.000 ms instead of 1.000" in routes_text("gla", SIZES, 4, "zigzag", found)
