"""Mappings into frozen dataclasses: each mistake gives the rule, the value and the remedy."""

from dataclasses import FrozenInstanceError, dataclass, field
from typing import Literal

import pytest

from ringattn.settings.lengths import Tokens
from ringattn.settings.typed import build, keys, suggest


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    kind: Literal["off", "slow", "fast"] = "slow"


@dataclass(frozen=True, kw_only=True)
class Outer:
    steps: int
    length: Tokens | None = None
    name: str | None = None
    loud: bool = False
    inner: Inner = field(default_factory=Inner)


def test_a_mapping_becomes_a_frozen_value():
    built = build(Outer, {"steps": 3, "inner": {"rate": 1}})
    assert built == Outer(steps=3, inner=Inner(rate=1.0))
    assert isinstance(built.inner.rate, float)
    with pytest.raises(FrozenInstanceError):
        built.steps = 4


def test_keys_are_dotted():
    assert keys(Outer) == ["steps", "length", "name", "loud", "inner.rate", "inner.kind"]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, "the setting steps is required and has no value: write steps=..."),
        ({"steps": "x"}, "steps must be a whole number, got 'x': write for example steps=10."),
        ({"steps": 1.5}, "steps must be a whole number, got 1.5"),
        ({"steps": True}, "steps must be a whole number, got True"),
        ({"steps": None}, "steps must be a whole number, got null"),
        (
            {"steps": 1, "length": "8q"},
            "length must be a number of tokens from 1 on, got '8q': write length=131072, 128k",
        ),
        ({"steps": 1, "length": 0.5}, "length must be a whole number, got 0.5"),
        ({"steps": 1, "loud": 1}, "loud must be true or false, got 1"),
        ({"steps": 1, "inner": 3}, "inner is a group of settings, got 3"),
        (
            {"steps": 1, "inner": {"kind": "fst"}},
            "must be one of off, slow, fast, got 'fst'. Did you mean 'fast'?",
        ),
        ({"steps": 1, "inner": {"rat": 1}}, "there is no setting inner.rat. Did you mean 'inner.rate'?"),
    ],
)
def test_a_mistake_states_rule_value_and_remedy(mapping, message):
    with pytest.raises(ValueError) as caught:
        build(Outer, mapping)
    assert message in str(caught.value)


def test_a_number_of_tokens_may_have_a_unit():
    lengths = [build(Outer, {"steps": 1, "length": length}).length for length in (7, "7", "32k", None)]
    assert lengths == [7, 7, 32768, None]


def test_the_bare_word_off_is_a_choice_and_not_false():
    assert build(Outer, {"steps": 1, "inner": {"kind": False}}).inner.kind == "off"


def test_a_setting_under_the_wrong_group_is_found():
    assert suggest("data.rate", ["inner.rate", "steps"]) == " Did you mean 'inner.rate'?"
    assert suggest("zzz", ["inner.rate"]) == ""
