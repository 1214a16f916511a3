"""Rows of ranks: who does what, and that all get everything, in order."""

import pytest
import torch.distributed as dist
from ranks import run_ranks

from ringattn.runtime.rows import Rows, make_rows


def done(rank, number, tasks):
    rows, group = make_rows(number)
    assert (None if group is None else dist.get_process_group_ranks(group)) == (
        None
        if number == 1
        else [r for r in range(dist.get_world_size()) if r * number // dist.get_world_size() == rows.index]
    )
    mine = rows.mine(list(range(tasks)))
    return rows, list(mine), rows.gather([10 * task for task in mine])


@pytest.mark.parametrize(("world", "number"), [(1, 1), (4, 1), (4, 2), (3, 3)])
@pytest.mark.parametrize("tasks", [0, 1, 5])
def test_each_task_is_one_row_s_and_all_get_all(world, number, tasks):
    found = run_ranks(world, done, number, tasks, threads=True)
    assert [rows for rows, _, _ in found] == [
        Rows(number=number, index=rank * number // world) for rank in range(world)
    ]
    firsts = [mine for _, mine, _ in found[:: world // number]]
    assert sorted(task for mine in firsts for task in mine) == list(range(tasks))
    assert all(every == [10 * task for task in range(tasks)] for _, _, every in found)


def test_ranks_that_do_not_divide_are_refused():
    from ranks import refusals

    for told in refusals(3, done, 2, 1, threads=True):
        assert "3 ranks can't be divided into 2 rows" in told
