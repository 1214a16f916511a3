"""Plans that are predicted to take as long."""

from ringattn.planner.ties import Merit, settled


def names(**plans):
    return settled(sorted(plans, key=lambda name: plans[name][0]), lambda name: Merit(*plans[name]))


def test_of_plans_within_a_percent_the_one_with_fewer_connections_comes_first():
    assert names(both=(1.0, 0.1, 0.9, 2), ring=(1.009, 0.1, 0.9, 1), all=(1.005, 0.1, 0.9, 3)) == [
        "ring",
        "both",
        "all",
    ]


def test_of_as_many_connections_the_faster_comes_first():
    assert names(one=(1.0, 0.1, 0.9, 2), other=(1.009, 0.1, 0.9, 2)) == ["one", "other"]


def test_further_apart_time_decides():
    assert names(both=(1.0, 0.1, 0.9, 2), ring=(1.011, 0.1, 0.9, 1)) == ["both", "ring"]


def test_where_computation_is_the_bound_links_do_not_matter():
    assert names(both=(1.0, 0.95, 0.9, 2), ring=(1.009, 0.1, 0.9, 1)) == ["both", "ring"]
    assert names(both=(1.0, 0.1, 0.9, 2), ring=(1.009, 0.95, 0.9, 1)) == ["both", "ring"]


def test_slices_come_first_only_where_they_are_predicted_to_gain_enough():
    assert names(whole=(1.0, 0.1, 0.9, 2), slices=(0.97, 0.1, 0.9, 2, True)) == ["whole", "slices"]
    assert names(whole=(1.0, 0.1, 0.9, 2), slices=(0.90, 0.1, 0.9, 2, True)) == ["slices", "whole"]
