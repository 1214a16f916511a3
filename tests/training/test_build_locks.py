"""A lock that a killed compilation left is found; one that is held is not."""

import os
import subprocess
import sys
import time

import pytest

from ringattn.training.build_locks import check_build_locks, stale_locks


def lock_of(folder, *, age):
    place = folder / "deepspeed_op"
    place.mkdir()
    lock = place / "lock"
    lock.touch()
    os.utime(lock, (time.time() - age,) * 2)
    return lock


def test_an_old_lock_where_nobody_builds_is_refused_with_the_remedy(tmp_path):
    lock = lock_of(tmp_path, age=300)
    with pytest.raises(ValueError, match=rf"wait for ever for {lock}, left 5 minutes ago .*: remove that file"):
        check_build_locks(tmp_path)


def test_a_new_lock_and_one_where_a_process_builds_are_waited_for(tmp_path):
    new, held = (tmp_path / "new", tmp_path / "held")
    new.mkdir()
    held.mkdir()
    lock_of(new, age=5)
    lock = lock_of(held, age=300)
    with subprocess.Popen([sys.executable, "-c", "input()"], cwd=lock.parent, stdin=subprocess.PIPE) as builder:
        assert list(stale_locks(tmp_path)) == []
        builder.communicate(b"\n")
    assert list(stale_locks(tmp_path)) == [lock]
