"""Which layers of a hybrid are linear: the ratios of the study on its 24 layers, lists, and what does not fit."""

import pytest

from ringattn.settings.hybrid import MIXER_NAMES, HybridSettings, check_hybrid, layer_kinds
from ringattn.settings.model import ModelConfig, check_model


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


def test_the_mixers_have_their_names():
    from ringattn.layers.linear.mixers import MIXERS

    assert tuple(sorted(MIXERS)) == MIXER_NAMES


@pytest.mark.parametrize(("changes", "message"), [
    ({"mixer": "gated_delta"}, "model.hybrid.mixer is one of .*did you mean 'gated_deltanet'"),
    ({"pattern": "6:1"}, "6:1 does not fit 4 layers"),
    ({"pattern": "linear,full"}, "2 names for num_hidden_layers=4"),
    ({"pattern": "linear,linear,sliding,full"}, "sliding layers need model.hybrid.sliding_window"),
    ({"conv_width": 0}, "model.hybrid.conv_width is at least 1, got 0"),
    ({"state_route": "rings"}, "rings"),
    ({"kernel": "flah"}, r"model.hybrid.kernel is one of auto, fla, torch, got 'flah' \(did you mean 'fla'"),
])  # fmt: skip
def test_settings_that_break_a_rule(changes, message):
    with pytest.raises(ValueError, match=message):
        check_hybrid(HybridSettings(**changes), layers=4)


def test_a_kernel_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("ringattn.settings.hybrid.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"kernel=fla needs the package flash-linear-attention, which is not installed"
    ):
        check_hybrid(HybridSettings(kernel="fla"), layers=4)
    monkeypatch.setattr("ringattn.settings.hybrid.find_spec", lambda name: name)
    check_hybrid(HybridSettings(kernel="fla"), layers=4)


def test_a_checkpoint_has_its_own_layers():
    with pytest.raises(ValueError, match=r"a checkpoint has its own, got model.path=a: drop model.hybrid"):
        check_model(ModelConfig(path="a", hybrid=HybridSettings()))
