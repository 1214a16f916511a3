"""SIGKILL in each phase of a checkpoint: whatever is called step-N afterwards is whole, and the next save works."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from ringattn.training import checkpoint
from ringattn.training.checkpoint import newest, save_checkpoint, verify

# The operations between which a checkpoint has its phases: made aside, written, its digests, flushed, renamed, its
# folder flushed, `latest` made aside and moved, the old one removed.
PHASES = [
    (Path, "mkdir"),
    (Path, "write_text"),
    (os, "fsync"),
    (Path, "rename"),
    (Path, "symlink_to"),
    (Path, "replace"),
    (shutil, "rmtree"),
    (checkpoint, "_digest"),
]


def content(text):
    def write(path):
        (path / "weights").write_text(text)
        (path / "training").mkdir()
        (path / "training" / "state").write_text(text * 1000)

    return write


def killed_at(folder, call, *, step, text):
    """Save in a process that is killed before operation number `call`; the operation's name, or None at an end."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        left = [call]

        def watched(name, operation):
            def run(*arguments, **named):
                if left[0] == 0:
                    os.write(writer, name.encode())
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return operation(*arguments, **named)

            return run

        try:
            for owner, name in PHASES:
                setattr(owner, name, watched(name, getattr(owner, name)))
            save_checkpoint(content(text), folder, step=step)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        name = said.read()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) == bool(name)
    return name or None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_between_any_two_operations_leaves_a_whole_checkpoint(tmp_path):
    reached = []
    for call in range(100):
        folder = tmp_path / str(call)
        save_checkpoint(content("one"), folder, step=1)
        name = killed_at(folder, call, step=2, text="two")
        if name is None:
            break
        reached.append(name)
        found = newest(folder)
        verify(found)
        assert (found / "weights").read_text() == {"step-000001": "one", "step-000002": "two"}[found.name]
        assert (folder / "latest").exists(), f"killed before {name}, number {call}"
        # What a run that goes on from there does next.
        step = int(found.name.removeprefix("step-")) + 1
        save_checkpoint(content("next"), folder, step=step)
        verify(newest(folder))
        assert (folder / "latest" / "weights").read_text() == "next"
        assert sorted(p.name for p in folder.iterdir()) == ["latest", f"step-{step:06d}"]
    assert {name for _, name in PHASES} <= set(reached)
    assert newest(folder).name == "step-000002"
