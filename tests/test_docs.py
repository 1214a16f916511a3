"""The documents: drawn parts are what the schedules give, shown code runs, and no link leads nowhere."""

import contextlib
import importlib.util
import io
import os
import re
import runpy
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from safetensors.torch import load_file

import ringattn

ROOT = Path(__file__).resolve().parent.parent

_SPEC = importlib.util.spec_from_file_location("draw_docs", ROOT / "scripts" / "draw_docs.py")
draw_docs = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(draw_docs)


def test_what_is_drawn_is_what_the_schedules_give():
    stale = [
        str(path.relative_to(ROOT))
        for path, text in draw_docs.drawn().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert stale == [], "run: python scripts/draw_docs.py"


def test_no_picture_is_left_over():
    kept = {path.name for path in (ROOT / draw_docs.PICTURES).glob("*.svg")}
    assert kept == {path.name for path in draw_docs.drawn() if path.suffix == ".svg"}


@pytest.mark.parametrize("schedule", ["ring", "tokenring", "tile", "ulysses"])
def test_the_bytes_in_the_readme(schedule):
    cells = []
    for key_heads in (32, 8):
        words = f"show {schedule} --length 32768 --query-heads 32 --key-heads {key_heads} --head-dim 128 --full"
        printed = [draw_docs.printed_by(words + more) for more in ("", " --backward")]
        cells.append(", ".join(re.search(r"sent by a rank .* chunks +(.*)", text)[1] for text in printed))
    row = f"| `{schedule}` | {' | '.join(cells)} |\n"
    assert row in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The files that the documents show, as a user copies them."""
    folder = tmp_path_factory.mktemp("example")
    for path in draw_docs.documents():
        for name, code in draw_docs.files_in(path.read_text(encoding="utf-8")).items():
            (folder / name).write_text(code, encoding="utf-8")
    return folder


def printed_by(rank, folder, name):
    """What a shown file prints where the ranks are there already: its own start and end of them are left out."""
    return run_shown(folder, name)[0]


def run_shown(folder, name):
    """What a shown file prints, and its names at the end."""
    sys.path.insert(0, str(folder))
    out = io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(out),
            mock.patch.object(dist, "init_process_group"),
            mock.patch.object(dist, "destroy_process_group"),
        ):
            names = runpy.run_path(str(folder / name), run_name="__main__")
    finally:
        sys.path.pop(0)
    return out.getvalue(), names


def test_the_example_is_exact_in_a_virtual_world(example):
    assert printed_by(0, example, "check_my_ring.py").startswith("my_ring is exact")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("run_my_ring.py", "rank {} has 500 of 1000 tokens\n"),
        ("attend.py", "rank {}: (1, 500, 8, 64) of (1, 1000, 8, 64)\n"),
        ("parallel_model.py", "rank {}: 500 of 1000 tokens, loss of the whole sequence 6.25\n"),
        ("landmark_attend.py", "rank {}: (1, 1015, 8, 64), of which 1000 ordinary tokens\n"),
        ("continue_text.py", "rank {}: a prompt of 1000 tokens, 20 more\n"),
    ],
)
def test_what_the_documents_show_runs_on_two_ranks(example, name, line):
    assert run_ranks(2, printed_by, example, name, timeout=100) == [line.format(0), line.format(1)]


OWN_LOOPS = ("plain_loop.py", "hf_trainer.py", "accelerated.py")


def trained_by(rank, world, folder, place):
    """By each of the page's loops: the losses of all steps and the weights after them, and the same weights as saved;
    and what Trainer's evaluation says. In one process the models are plain ones."""
    from accelerate.state import AcceleratorState

    from ringattn.training import batches

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}  # Looked for, not used: the ranks are there.
    found = {}
    for name in OWN_LOOPS:
        (place / name).mkdir(exist_ok=True)
        os.chdir(place / name)
        with contextlib.ExitStack() as stack:
            if world == 1:
                stack.enter_context(mock.patch.object(ringattn, "parallelize", lambda model, sp, **more: model))
                stack.enter_context(mock.patch.object(batches, "SharedBatches", type("Nothing", (), {})))
            names = run_shown(folder, name)[1]
        if "trainer" in names:
            scored = names["trainer"].evaluate(names["texts"][:16])["eval_loss"]
        weights = {key.removeprefix("module."): value for key, value in names["model"].state_dict().items()}
        saved = load_file("trained/model.safetensors") if rank == 0 else weights
        found[name] = (torch.tensor(names["losses"]), weights, saved)
        AcceleratorState._reset_state(reset_partial_state=True)
    return found, scored


@pytest.fixture(scope="module")
def plainly_trained(example, tmp_path_factory):
    return run_ranks(1, trained_by, 1, example, tmp_path_factory.mktemp("plain"), timeout=200)[0]


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_own_loops_train_as_one_process_does(example, plainly_trained, tmp_path, world):
    expected, expected_score = plainly_trained
    for found, score in run_ranks(world, trained_by, world, example, tmp_path, timeout=200):
        for name in OWN_LOOPS:
            losses, weights, saved = found[name]
            assert len(losses) == 3
            for ours, theirs in zip((losses, weights), expected[name], strict=False):
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
            torch.testing.assert_close(saved, weights, rtol=0, atol=0)
        # Batches that several rows read together are one mean over targets to Trainer, and not one for each.
        assert world > 2 or score == pytest.approx(expected_score, rel=1e-5)


@pytest.mark.parametrize("name", OWN_LOOPS)
def test_own_loops_are_short(example, name):
    assert len((example / name).read_text(encoding="utf-8").splitlines()) <= 45


@pytest.mark.parametrize("path", draw_docs.documents(), ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target
