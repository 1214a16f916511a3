"""The documents: drawn parts are what the schedules give, shown code runs, and no link leads nowhere."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
    kept = {path.name for path in (ROOT / draw_docs.PICTURES).iterdir()}
    assert kept == {path.name for path in draw_docs.drawn() if path.suffix == ".svg"}


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The files of "add a schedule", as a user copies them."""
    folder = tmp_path_factory.mktemp("example")
    for name, code in draw_docs.files_in((ROOT / "docs/add-a-schedule.md").read_text(encoding="utf-8")).items():
        (folder / name).write_text(code, encoding="utf-8")
    return folder


def output_of(folder, *words):
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_is_exact_in_a_virtual_world(example):
    assert output_of(example, "check_my_ring.py").startswith("my_ring is exact")


def test_the_example_runs_on_real_ranks(example):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    shown = output_of(example, *torchrun, "run_my_ring.py")
    assert sorted(shown.splitlines()) == ["rank 0 has 500 of 1000 tokens", "rank 1 has 500 of 1000 tokens"]


@pytest.mark.parametrize("path", draw_docs.documents(), ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target
