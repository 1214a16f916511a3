"""The connection to flash-linear-attention: every argument, layout, sign and scale, in fp64, with stand-ins for its
kernels; whom it serves; and, where the package is installed, its signatures and its kernels in triton's interpreter."""

import dataclasses
import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fla_stand_in import FUNCTIONS
from test_chunked import CPU, VARIANTS, B, assert_same, by_token, inputs, results
from test_parallel_mixers import Case, check
from tiny_mixers import make_mixer
from torch import Tensor

from ringattn.layers.linear import kernels
from ringattn.layers.linear.attention import linear_attention
from ringattn.layers.linear.channels import channels
from ringattn.layers.linear.context import Context
from ringattn.layers.linear.effect import Effect, apply
from ringattn.layers.linear.fla import Segment, fla_attention, fla_channels, function, make_segments
from ringattn.layers.linear.kernels import Family, Request, check_kernel, choose_kernel, explain_kernels
from ringattn.layers.linear.mixers import MIXERS
from ringattn.layers.linear.pieces import make_pieces

LENGTH, PACKED = 21, (0, 3, 3, 9, 16, 17, 21)
# Cut anywhere, one without tokens, one that begins a document and one that holds a start.
RUNS = (range(0, 7), range(7, 7), range(7, 16), range(16, 18), range(18, 21))
CUDA = torch.device("cuda")


@pytest.fixture
def stand_in(monkeypatch):
    """fla's functions are the stand-ins, serve any tensors, and are called."""
    called = []
    monkeypatch.setattr(
        "ringattn.layers.linear.fla.function", lambda family: called.append(family) or FUNCTIONS[family]
    )
    monkeypatch.setattr(kernels, "fla_refusal", lambda request: None)
    yield
    assert called


def after(initial: Tensor):
    """What enters each run, where `initial` enters the first."""

    def entering(effects: Effect) -> Tensor:
        states = [initial]
        for transition, addition in zip(effects.transition, effects.addition, strict=True):
            states.append(apply(Effect(transition, addition), states[-1]))
        return torch.stack(states[:-1])

    return entering


@pytest.mark.parametrize("documents", [None, PACKED], ids=["whole", "packed"])
@pytest.mark.parametrize(("decay", "delta"), VARIANTS)
def test_alone_it_is_the_recurrence(stand_in, decay, delta, documents):
    def fast(query, key, value, **rest):
        context = Context.alone(LENGTH, documents)
        return linear_attention(query, key, value, context=context, scale=0.7, kernel="fla", **rest)

    given = inputs(LENGTH, decay, delta)
    assert_same(results(fast, given), results(by_token(documents), given))


@pytest.mark.parametrize("documents", [None, PACKED], ids=["whole", "packed"])
@pytest.mark.parametrize(("decay", "delta"), VARIANTS)
def test_runs_joined_by_their_effects_are_the_whole(stand_in, decay, delta, documents):
    given = inputs(LENGTH, decay, delta)

    def joined(query, key, value, log_decay, beta, initial_state):
        segments, rest = make_segments(RUNS, documents, B, CPU), {"log_decay": log_decay, "beta": beta, "scale": 0.7}
        return fla_attention(query, key, value, segments, entering=after(initial_state), **rest)

    assert_same(results(joined, given), results(by_token(documents), given))


@pytest.mark.parametrize("documents", [None, PACKED], ids=["whole", "packed"])
@pytest.mark.parametrize("spread", [False, True], ids=["alone", "spread"])
def test_channels_are_those_of_torch(stand_in, spread, documents):
    torch.manual_seed(0)
    given = {
        "x": torch.randn(B, LENGTH, 5, dtype=torch.float64),
        "log_decay": -20 * torch.rand(B, LENGTH, 5, dtype=torch.float64),
        "initial_state": torch.randn(B, 5, dtype=torch.float64),
    }

    def fast(x, log_decay, initial_state):
        segments = make_segments(RUNS if spread else (range(LENGTH),), documents, B, CPU)
        if not spread:
            return fla_channels(x, log_decay, segments, initial_state=initial_state)
        return fla_channels(x, log_decay, segments, entering=after(initial_state[..., None, None]))

    def slow(x, log_decay, initial_state):
        return channels(x, log_decay, make_pieces((range(LENGTH),), documents, CPU), initial_state=initial_state)

    assert_same(results(fast, given), results(slow, given))


# Chunks that begin documents, and chunks without tokens.
@pytest.mark.parametrize("case", [Case(2, "zigzag", 21, (0, 1, 11, 12, 21)), Case(4, "zigzag", 5)], ids=str)
@pytest.mark.parametrize("name", ["gated_deltanet", "kda", "hgrn", "hgrn2", "retnet"])
def test_mixers_over_ranks(stand_in, name, case):
    check(name, case)


def test_segments_by_eye():
    segments = make_segments((range(2, 5), range(9, 9), range(9, 13)), (0, 4, 9, 20), 2, CPU)
    assert segments.parts == (Segment(0, 2, 0, True), Segment(2, 3, 0, False), Segment(3, 7, 2, False))
    assert segments.bounds.tolist() == [0, 2, 3, 7, 9, 10, 14]
    assert [segments.last(run) for run in range(3)] == [1, None, 2]
    assert make_segments((range(5, 8),), (0, 4, 9), 2, CPU).bounds is None


def test_bfloat16_goes_in_as_one_dtype_and_the_state_stays_in_fp32(stand_in):
    """HGRN-2's key is fp32 under bf16 weights, and RetNet's decays are fp64."""
    given = inputs(LENGTH, "channel", False)
    query, key, value = (given[name].bfloat16() for name in ("query", "key", "value"))
    rest = {"context": Context.alone(LENGTH), "log_decay": given["log_decay"], "scale": 0.7, "kernel": "fla"}
    out, state = linear_attention(query, key.float(), value, **rest)
    assert (out.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    exact, last = by_token()(query.double(), key.double(), value.double(), log_decay=given["log_decay"])
    torch.testing.assert_close(out.double(), exact, rtol=2**-8, atol=1e-4)
    torch.testing.assert_close(state.double(), last, rtol=1e-4, atol=1e-4)


@pytest.fixture
def installed(monkeypatch):
    """As if fla and triton were there."""
    versions = {"fla-core": "0.6.0", "triton": "3.9.0"}
    monkeypatch.setattr(kernels, "version", versions.__getitem__)
    monkeypatch.setattr(kernels, "find_spec", lambda name: name)
    monkeypatch.setattr(kernels, "import_module", lambda name: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    kernels.fla_refusal.cache_clear()
    yield versions
    kernels.fla_refusal.cache_clear()


@pytest.mark.parametrize(("changes", "text"), [
    ({}, None),
    ({"device": CPU}, "runs on a CUDA device, and the tensors are on cpu"),
    ({"dtype": torch.float32}, "takes float16 and bfloat16, and the tensors are float32"),
    ({"family": Family.HGRN}, "takes float32, and the tensors are bfloat16"),
    ({"family": Family.HGRN, "dtype": torch.float32, "key_dim": 1, "value_dim": 1}, None),
    ({"value_dim": 129}, "takes heads of even key and value channels, got 128 and 129"),
    ({"key_dim": 320}, "takes key heads of up to 256 channels under a delta rule, got 320"),
    ({"key_dim": 320, "family": Family.GLA}, None),
])  # fmt: skip
def test_whom_it_serves(installed, changes, text):
    request = dataclasses.replace(Request(CUDA, torch.bfloat16, Family.KDA, 128, 256), **changes)
    assert kernels.fla_refusal(request) == text
    assert choose_kernel("auto", request) == ("torch" if text else "fla")


def test_gradients_that_a_triton_gets_wrong_are_not_chosen(installed):
    installed["triton"] = "3.6.0"
    request = Request(CUDA, torch.bfloat16, Family.GATED_DELTA_RULE, 128, 256)
    text = "has wrong gradients of decays on Hopper GPUs with triton 3.6.0, and needs 3.7.1 or later there"
    assert kernels.fla_refusal(request) == text
    assert kernels.fla_refusal(dataclasses.replace(request, family=Family.KDA)) is None


def test_the_choice_is_shown(installed):
    assert explain_kernels(Request(CPU, torch.float32, Family.GLA, 64, 64)) == [
        ("fla", "runs on a CUDA device, and the tensors are on cpu"), ("torch", "chosen"), ("recurrent", "serves"),
    ]  # fmt: skip
    shown = dict(make_mixer("gla").kernels(torch.bfloat16, device="cuda"))
    assert shown["fla"].startswith("takes heads of even key and value channels, got 4 and 3")
    assert dict(make_mixer("hgrn").kernels(torch.bfloat16, device="cuda"))["fla"] == "chosen"


def test_what_is_refused(installed, monkeypatch):
    one = torch.zeros(1, 3, 2, 4)
    with pytest.raises(
        ValueError, match=r"kernel='fla' runs on a CUDA device, and the tensors are on cpu: use kernel="
    ):
        linear_attention(one, one, one, context=Context.alone(3), kernel="fla")
    with pytest.raises(ValueError, match="there is none here: use kernel='torch', which runs on any device, or 'auto'"):
        check_kernel("fla")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match="takes heads of even key and value channels, got 4 and 3"):
        make_mixer("gla", kernel="fla")
    monkeypatch.setattr(kernels, "import_module", lambda name: {}[name])
    with pytest.raises(ValueError, match=r"kernel='fla' can't be imported here \(KeyError: 'fla\.ops\.gla\.chunk'\)"):
        check_kernel("fla", Family.GLA)
    installed["fla-core"] = "0.5.2"
    with pytest.raises(ValueError, match=r"needs fla-core 0\.6\.0 or later, and 0\.5\.2 is installed"):
        check_kernel("fla")
    monkeypatch.undo()
    if importlib.util.find_spec("fla") is None:
        with pytest.raises(ValueError, match="needs the package flash-linear-attention, which is not installed"):
            check_kernel("fla")


def test_each_mixer_names_what_it_computes(monkeypatch):
    """The family that a mixer is asked about is that of the call it makes."""
    asked = []
    monkeypatch.setattr(kernels, "fla_refusal", lambda request: asked.append(request) or "is not asked")
    for name in MIXERS:
        mixer = make_mixer(name)
        mixer(torch.zeros(1, 2, 8, dtype=torch.float64), context=Context.alone(2))
        sizes = (1, 1) if name == "hgrn" else (mixer.sizes.key_dim, mixer.sizes.value_dim)
        assert (asked[-1].family, asked[-1].key_dim, asked[-1].value_dim) == (mixer.family, *sizes)


THERE = importlib.util.find_spec("fla") is not None and importlib.util.find_spec("triton") is not None
needs_fla = pytest.mark.skipif(not THERE, reason="the packages fla-core and triton are not installed")


@needs_fla
@pytest.mark.parametrize("family", Family)
def test_the_stand_ins_take_what_the_package_takes(family):
    theirs, ours = (inspect.signature(one).parameters for one in (function(family), FUNCTIONS[family]))
    assert {name: theirs[name].default for name in ours} == {name: one.default for name, one in ours.items()}


@needs_fla
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_packages_kernels_give_what_the_recurrence_gives():
    # The interpreter is chosen when triton is imported, so it runs in a process of its own.
    command = [sys.executable, str(Path(__file__).parent / "interpreted_fla.py")]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800)
    assert found.returncode == 0 and "interpreted" in found.stdout, found.stdout + found.stderr
