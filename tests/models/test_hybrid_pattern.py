"""Which layers of a hybrid are linear: the ratios of the study on its 24 layers, lists, and what does not fit."""

import pytest

from ringattn.models.hybrid.pattern import layer_kinds


def places(pattern, layers):
    return [index for index, kind in enumerate(layer_kinds(pattern, layers)) if kind == "full"]


@pytest.mark.parametrize(("pattern", "full"), [
    ("24:1", [23]), ("12:1", [11, 23]), ("6:1", [7, 15, 23]), ("3:1", [3, 7, 11, 15, 19, 23]),
    ("pure", []), ("full", list(range(24))),
])  # fmt: skip
def test_the_ratios_of_the_study(pattern, full):
    assert places(pattern, 24) == full


def test_a_ratio_that_divides_the_layers_is_exact():
    assert places("3:1", 8) == [3, 7]
    assert places("1:1", 4) == [1, 3]


def test_a_list_names_each_layer():
    assert layer_kinds(["linear", "sliding", "full"], 3) == ("linear", "sliding", "full")


def test_what_does_not_fit_says_what_would():
    with pytest.raises(ValueError, match=r"24:1 does not fit 8 layers.*with 8 layers 7:1, .*24:1 would with 24, 25"):
        layer_kinds("24:1", 8)
    with pytest.raises(ValueError, match=r"R:1 \(linear to full\), pure, full, or a list.*did you mean 'pure'"):
        layer_kinds("pur", 8)
    with pytest.raises(ValueError, match="unknown kind of layer 'slide'.*did you mean 'sliding'"):  # noqa: RUF043
        layer_kinds(["slide"], 1)
    with pytest.raises(ValueError, match="2 names for num_hidden_layers=3"):
        layer_kinds(["full", "linear"], 3)
