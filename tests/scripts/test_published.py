"""The simulator against published measurements: errors as docs/simulator.md states them, and the figures behind."""

import json

import pytest
from hosts import SCRIPTS
from published import command, mesh_attention, ring_flash_attention, token_ring
from published.table import Constant, Row, Table, told

from ringattn.planner.costs import Workload, costs_of
from ringattn.schedule import make_schedule
from ringattn.schedule.value import Shape
from ringattn.sequence.layout import make_layout
from ringattn.sequence.mask import Mask


@pytest.fixture(scope="module")
def tables():
    return command.tables()


def test_ring_attention_on_eight_gpus_within_six_percent(tables):
    assert len(tables[0].rows) == 12
    assert tables[0].mean <= 6
    assert tables[0].worst <= 12


def test_tokenring_on_four_gpus_within_fifteen_percent(tables):
    assert tables[1].worst <= 15


def test_tiles_on_256_gpus_within_three_points(tables):
    assert tables[2].worst <= 3


def test_every_constant_has_a_source(tables):
    assert all(constant.text and constant.source for table in tables for constant in table.constants)


def test_one_block_takes_what_was_measured():
    """What sets the kernel's rate comes out again: forward, and forward with backward."""
    for name, one in ring_flash_attention.ONE.items():
        chip = ring_flash_attention.measured_cluster(name).accelerator
        cut = make_layout("contiguous", ring_flash_attention.TOKENS, 1)
        workload = Workload(cut, cut, Mask(), ring_flash_attention.TENSORS, "bfloat16")
        schedule = make_schedule("ring", Shape(1, 32, 8))
        seconds = [
            costs_of(schedule, workload, chip, backward=backward).task(schedule.steps[0].tasks[0])[0]
            for backward in (False, True)
        ]
        assert 1 / seconds[0] == pytest.approx(one.forward, rel=1e-3)
        assert 1 / sum(seconds) == pytest.approx(one.both, rel=1e-3)


def test_bytes_of_the_published_merge():
    # Cast 6, seven merges of 38, cast back 6: 278 bytes an element over 8 blocks and 4 bytes of an fp32 partial.
    assert ring_flash_attention.merge_passes("zigzag", backward=False) == 278 / 32
    assert ring_flash_attention.merge_passes("striped", backward=False) == 334 / 32


def test_ring_attention_takes_the_step_that_sets_the_rate():
    assert max(token_ring.steps("ring")) == pytest.approx(token_ring.RING_STEP, rel=1e-4)


@pytest.mark.parametrize("key_heads", [32, 8])
@pytest.mark.parametrize("rows", [2, 4, 8, 16])
def test_counted_bytes_are_those_of_the_formula(rows, key_heads):
    assert mesh_attention.sent(f"tile:rows={rows}", 16, key_heads) == mesh_attention.by_formula(rows, 16, key_heads)
    assert mesh_attention.sent("ring", 16, key_heads) == mesh_attention.by_formula(16, 16, key_heads)


def test_errors_of_a_table():
    rows = (Row("fast", 10.0, 11.0), Row("slow", 20.0, 19.0))
    table = Table("Two runs", "ms", rows, (Constant("rate", "3 B/s", "a guess"),), given=("nothing",))
    assert (table.mean, table.worst) == (7.5, 10.0)
    assert told([table]).splitlines() == [
        "Two runs",
        "        published  predicted  error, %   (ms)",
        "  fast         10         11     +10.0",
        "  slow         20         19      -5.0",
        "  error without sign: mean 7.5 %, worst 10.0 %",
        "  given: nothing",
        "  rate = 3 B/s: a guess",
    ]
    in_points = Table("Two runs", "%", rows, (), points=True)
    assert [in_points.error(row) for row in rows] == [1.0, -1.0]


def test_the_command(tables, capsys, monkeypatch):
    monkeypatch.setattr(command, "tables", lambda: tables)
    assert command.main([]) == 0
    printed = capsys.readouterr().out
    assert printed == told(tables) + "\n"
    assert command.main(["--json"]) == 0
    assert [table["mean"] for table in json.loads(capsys.readouterr().out)] == [table.mean for table in tables]
    shown = (SCRIPTS.parent / "docs" / "simulator.md").read_text(encoding="utf-8")
    assert printed in shown, "docs/simulator.md: paste what python scripts/published.py prints"
