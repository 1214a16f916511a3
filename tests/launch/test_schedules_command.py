"""`ringattn schedules`: the list, the table and the picture of one, and the proof of a user's own."""

import subprocess
import sys

import pytest
from ringattn.launch.cli import main

from ringattn.schedule import schedules
from ringattn.schedule.states import state_routes

MINE = """
from ringattn.schedule.build import Builder
from ringattn.schedule.value import Side


def right(shape):
    plan = Builder("right", shape)
    for rank in range(shape.world):
        own, others = plan.chunks(rank), [r for r in range(shape.world) if r != rank]
        plan.compute(0, rank, queries=own, keys=own)
        for other in others:
            plan.send(0, rank, other, Side.KEY, own)
            plan.compute(1, other, queries=plan.chunks(other), keys=own)
            plan.send_result(2, other, rank, Side.KEY, own)
    return plan.build()


def forgets(shape):
    plan = Builder("forgets", shape)
    for rank in range(shape.world):
        plan.compute(0, rank, queries=plan.chunks(rank), keys=plan.chunks(rank))
    return plan.build()


def stays(shape):
    plan = Builder("stays", shape)
    for rank in range(shape.world):
        own = plan.chunks(rank)
        plan.compute(0, rank, queries=own, keys=own)
        for other in range(shape.world):
            if other != rank:
                plan.send(0, rank, other, Side.KEY, own)
                plan.compute(1, other, queries=plan.chunks(other), keys=own)
    return plan.build()


def two_ranks(shape):
    return right(shape._replace(world=2))


def own_chunks(shape):
    return right(shape._replace(chunks_per_rank=3))


def one_head(shape):
    return right(shape._replace(query_heads=1, key_heads=1))


def nothing(shape):
    return None


def broken(shape):
    return {}["missing"]
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def test_the_list_has_every_schedule_with_its_numbers(capsys):
    assert main(["schedules"]) == 0
    listed, routes = capsys.readouterr().out.split("\n\n")
    assert [row.split()[0] for row in routes.splitlines()[2:]] == state_routes()
    rows = listed.splitlines()[2:]
    assert [row.split()[0] for row in rows if row[0] != " "] == schedules()
    assert all(len(row) <= 120 for row in rows)
    assert any(row.split()[:2] == ["usp", "heads"] and "Ulysses in groups" in row for row in rows)


def test_show_prints_the_table_of_what_the_mask_leaves_and_the_figures(capsys):
    assert main(["schedules", "show", "tokenring", "--ranks", "2"]) == 0
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert shown[0].startswith("tokenring, forward, 2 ranks: causal, zigzag, 1,024 tokens, 8 query and 8 key heads")
    # Causal, zigzag: nobody but rank 0 needs the first chunk of its queries, and rank 1 is needed whole.
    assert "0 0 q0 x kv0 q0b to 1 q1 from 1" in shown
    # Rank 0 sends 256 rows of queries (8 heads x 64 x 2 bytes) and 512 of out and lse (8 x 65 x 4 bytes); rank 1
    # 512 and 256.
    low, high = (512 * 1024 + 256 * 2080) / 2**20, (256 * 1024 + 512 * 2080) / 2**20
    assert f"sent by a rank 3 chunks {low:.1f} MiB to {high:.1f} MiB" in shown


def test_show_takes_heads_mask_and_direction(capsys):
    words = "--ranks 4 --query-heads 8 --key-heads 2 --layout striped --full --length 99 --backward"
    assert main(["schedules", "show", "usp:heads=2", *words.split()]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usp, backward, 4 ranks: full, striped, 99 tokens, 8 query and 2 key heads")
    assert "query heads: h0 0-3, h1 4-7" in shown and "dkv" in shown


def test_a_route_of_states_is_shown_with_its_bytes(capsys):
    words = "route ring --ranks 2 --layout contiguous --heads 2 --key-dim 8 --value-dim 4 --transition dense"
    assert main(["schedules", *words.split()]) == 0
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert shown[:2] == ["ring over 2 ranks, contiguous, forward", "stretches of the sequence lie on ranks 0 1"]
    assert "0 0 state 0 past 0 state 1 to 1 -" in shown and shown[-2:] == ["0 256 0", "1 0 256"]
    assert main(["schedules", *words.split(), "--backward"]) == 0
    assert "stretches of the sequence lie on ranks 1 0\n" in capsys.readouterr().out


def test_show_writes_a_picture(tmp_path, capsys):
    path = tmp_path / "ring.svg"
    assert main(["schedules", "show", "ring", "--window", "100", "--documents", "0,500,1024", "--svg", str(path)]) == 0
    assert f"picture written to {path}" in capsys.readouterr().out
    assert "causal, window 100, 2 documents [0, 500, 1024], zigzag" in path.read_text()


@pytest.mark.parametrize("name", schedules())
def test_every_built_in_schedule_is_verified(name, capsys):
    spec = "grid:heads=2,queries=3,keys=1" if name == "grid" else name
    assert main(["schedules", "verify", spec, "--ranks", "6", "--length", "100", "--window", "30"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"OK: {spec} over 6 ranks computes every block once and brings every result home\n")
    assert "\nforward\n" in shown and "\nbackward\n" in shown


def test_a_schedule_in_a_file_of_ones_own_is_verified_and_shown(mine, capsys):
    assert main(["schedules", "verify", f"{mine}:right", "--ranks", "3"]) == 0
    assert capsys.readouterr().out.startswith("OK: right over 3 ranks")
    assert main(["schedules", "show", f"{mine}:right", "--ranks", "3"]) == 0
    assert capsys.readouterr().out.startswith("right, forward, 3 ranks")


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (
            "forgets",
            "FAULT in the forward: schedule 'forgets': nobody computes the block of query chunk 1 with key chunk 2",
        ),
        (
            "stays",
            "FAULT in the backward: schedule 'stays': the result of key and value gradients of chunk 2 (head group 0) "
            "that rank 0 holds never gets home to rank 1",
        ),
        ("two_ranks", "FAULT: schedule 'right' is for 2 ranks, not 3"),
        ("own_chunks", "has 3 chunks a rank, which must be a multiple of the layout's 2"),
        ("one_head", "covers 1 query heads of 8; build it from shape.query_heads"),
    ],
)
def test_a_fault_is_named_in_words_with_exit_code_1(function, fault, mine, capsys):
    assert main(["schedules", "verify", f"{mine}:{function}", "--ranks", "3"]) == 1
    assert fault in capsys.readouterr().out


def test_an_error_inside_a_users_function_keeps_its_traceback(mine):
    with pytest.raises(KeyError, match="missing"):
        main(["schedules", "verify", f"{mine}:broken"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("shwo ring", "knows show, verify and route, got 'shwo' (did you mean 'show'?)"),
        ("ring", "got 'ring'; write `ringattn schedules show ring`"),
        ("show", "the following arguments are required: SCHEDULE; see `ringattn schedules show --help`"),
        ("show rnig", "unknown schedule 'rnig' (did you mean 'ring'?)"),
        ("show usp:haeds=2", "schedule 'usp' has no number called 'haeds' (did you mean 'heads'?)"),
        ("show ring --rank 4", "has no argument --rank (did you mean '--ranks'?)"),
        ("show ring --ranks 0", "argument --ranks: must be a whole number from 1 on, got '0'"),
        ("show ring --window 0", "window must be at least 1"),
        ("route rnig", "unknown state route 'rnig' (did you mean 'ring'?); there are allgather, pipeline, ring, scan"),
        ("route ring --layout striped", "choose layout contiguous, zigzag or balanced"),
        ("route ring --ranks 0", "argument --ranks: must be a whole number from 1 on, got '0'"),
        ("route ring --rank 2", "unrecognized arguments: --rank 2; see `ringattn schedules route --help`"),
        ("show ring --documents 0,9", "documents must end with the length of the sequence: it ends with 9"),
        ("show ring --documents 0;9", "argument --documents: must be whole numbers with commas between"),
        ("show ring --layout zigzg", "unknown layout 'zigzg' (did you mean 'zigzag'?)"),
        ("show ring --query-heads 3 --key-heads 2", "must be a multiple of the number of key and value heads"),
        ("show ring --ranks 17 --svg x.svg", "a picture shows at most 16 ranks, got 17"),
        ("show ring --svg nowhere/x.svg", "the picture could not be written to nowhere/x.svg: No such file"),
        ("verify missing.py:f", "there is no file missing.py"),
        ("verify {mine}", "needs the name of a function: it has right, forgets, stays"),
        ("verify {mine}:rigth", "has no function 'rigth' (did you mean 'right'?)"),
        ("verify {mine}:nothing", "must return a ringattn.Schedule, got NoneType; end it with `return plan.build()`"),
    ],
)
def test_a_mistake_gives_one_line_and_exit_code_2(words, message, mine, capsys):
    assert main(["schedules", *words.format(mine=mine).split()]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and shown.err.count("\n") == 1 and shown.out == ""


def test_no_torch_is_needed():
    code = (
        "import sys\nfrom ringattn.launch.cli import main\n"
        "assert main(['schedules', 'show', 'tile']) == 0\n"
        "heavy = {'torch', 'transformers', 'hydra', 'matplotlib'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
