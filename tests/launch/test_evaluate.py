"""`ringattn eval` on real ranks: the same figures on any number of them, what it writes, what each mistake is told."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest
import torch.distributed as dist
from ranks import refusals, run_ranks
from ringattn.launch.evaluate.inputs import make_inputs
from ringattn.launch.evaluate.job import evaluate
from ringattn.launch.evaluate.settings import help_text, read, read_other
from tiny_folders import TEXT, random_model, recall_model

from ringattn.report import evaluation_json
from ringattn.training.reader import SequenceReader

WORDS = ["lengths=560,700", "windows=2", "depths=2", "samples=2", "recall.pairs=4", "threads=1", "ruler.common=2"]
ALL = "tasks=perplexity,passkey,ruler,recall"
RULER = "ruler.tasks=single,multivalue,variables"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, one that can recall, and a text."""
    place = tmp_path_factory.mktemp("eval")
    random_model(place / "model")
    recall_model(place / "recall")
    (place / "book.txt").write_text(TEXT)
    return place


def words_of(place, *more):
    return [f"model.path={place / 'model'}", f"data.path={place / 'book.txt'}", *WORDS, *more]


def evaluated(rank, world, words):
    return evaluate(read(words, world=world), command="ringattn eval")


@pytest.fixture(scope="module")
def made(place):
    """Two evaluations of the same: by one rank, and by two with the first one beside it."""
    alone = run_ranks(
        1, evaluated, 1, words_of(place, ALL, RULER, f"out={place / 'one'}", "name=before"), threads=True
    )[0]
    words = words_of(place, ALL, RULER, f"out={place / 'two'}", f"compare={place / 'one'}")
    both = run_ranks(2, evaluated, 2, words, threads=True)
    assert both[1] is None, "rank 0 alone has it"
    return alone, both[0]


@pytest.fixture(scope="module")
def in_rows(place):
    """The same by two rows of two ranks that each read other sequences."""
    words = words_of(place, ALL, RULER, "mesh.sequence_parallel=2", f"out={place / 'rows'}")
    return run_ranks(4, evaluated, 4, words, threads=True)[0]


@pytest.mark.parametrize("ranks", ["two", "rows"])
def test_figures_do_not_depend_on_the_number_of_ranks(made, in_rows, ranks):
    alone, both = made[0], {"two": made[1], "rows": in_rows}[ranks]
    assert both.setup.ranks == {"two": 2, "rows": 4}[ranks]
    assert [len(one.scores) for one in (alone, both)] == [2 * (2 + 3 + 1)] * 2
    for mine, theirs in zip(alone.scores, both.scores):
        assert (mine.task, mine.name, mine.length, mine.score) == (
            theirs.task,
            theirs.name,
            theirs.length,
            theirs.score,
        )
        assert mine.loss == pytest.approx(theirs.loss, abs=1e-4) and mine.expected == theirs.expected
    for mine, theirs in zip(alone.perplexity, both.perplexity):
        assert mine.length == theirs.length
        for a, b in zip((mine.whole, *mine.ranges, *mine.quarters), (theirs.whole, *theirs.ranges, *theirs.quarters)):
            assert a.loss == pytest.approx(b.loss, abs=1e-4) and a.tokens == b.tokens


def test_what_is_written_is_what_was_found(made, place):
    for one, folder in zip(made, ("one", "two")):
        assert evaluation_json.read(place / folder) == one
        names = {"result.json", "result.txt", "perplexity.png", "passkey.png", "ruler.png", "recall.png"}
        assert {path.name for path in (place / folder).iterdir()} == names
    found = json.loads((place / "one" / "result.json").read_text())
    assert found["perplexity"][0]["quarters"][3]["perplexity"] > 1
    assert {"torch", "transformers"} <= set(found["setup"]["versions"]) and found["setup"]["hardware"]["cores"]
    assert found["setup"]["settings"]["lengths"] == "560,700" and found["setup"]["commit"]


def test_another_evaluation_stands_in_brackets(made, place):
    shown = (place / "two" / "result.txt").read_text()
    assert "in brackets: before" in shown and "0 (0)" in shown
    text, alone = (place / "one" / "result.txt").read_text(), made[0].perplexity[0]
    assert f"{alone.whole.perplexity:.1f}" in text and "last quarter" in text and "(" not in text.split("depth")[1]


def test_positions_that_do_not_reach_are_a_note(made):
    (note,) = made[0].setup.notes
    assert note.startswith("warning: sequences of 700 tokens are longer than the model's 512 positions")
    assert note.endswith("set model.rope_scaling=yarn:700")


def test_stretched_positions_reach(place):
    words = ["tasks=recall", "model.rope_scaling=yarn:1024", f"out={place / 'yarn'}"]
    (found,) = run_ranks(1, evaluated, 1, words_of(place, *words), threads=True)
    assert found.setup.notes == () and found.setup.settings["model"]["rope_scaling"] == "yarn:1024"


class Stopped(Exception):
    """What ends an evaluation in its middle."""


@pytest.fixture
def calls(monkeypatch):
    """How often each rank has called the model; `calls.limit`: how often it may."""

    class Calls(Counter):
        limit = 1000

    calls = Calls()

    def counted(function):
        def call(reader, sequence):
            rank = dist.get_rank()
            if calls[rank] == calls.limit:
                raise Stopped
            calls[rank] += 1
            return function(reader, sequence)

        return call

    for name in ("predictions", "sequence_losses"):
        monkeypatch.setattr(SequenceReader, name, counted(getattr(SequenceReader, name)))
    return calls


def stopped(rank, world, words):
    with pytest.raises(Stopped):
        evaluated(rank, world, words)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_stopped_evaluation_goes_on_where_it_was(made, place, calls, rows):
    out = place / f"stopped-{rows}"
    more = [ALL, RULER, "batch_tokens=1", f"mesh.sequence_parallel={2 // rows}", f"out={out}"]
    calls.limit = 9
    run_ranks(2, stopped, 2, words_of(place, *more), threads=True)
    parts = sorted((out / "parts").iterdir())
    assert len(parts) == 9 * rows and all(path.suffix == ".npz" for path in parts)
    parts[0].write_bytes(parts[0].read_bytes()[:50])
    calls.clear()
    calls.limit = 1000
    again = run_ranks(2, evaluated, 2, words_of(place, *more), threads=True)[0]
    assert len(again.scores) == len(made[0].scores)
    for mine, theirs in zip(again.scores, made[0].scores):
        assert (mine.task, mine.name, mine.length, mine.score, mine.written) == (
            theirs.task,
            theirs.name,
            theirs.length,
            theirs.score,
            theirs.written,
        )
        assert mine.loss == pytest.approx(theirs.loss, abs=1e-4)
    for mine, theirs in zip(again.perplexity, made[0].perplexity):
        assert mine.whole.loss == pytest.approx(theirs.whole.loss, abs=1e-4)
    # What was cut short is read again; in one row both ranks read each batch.
    batches = sum(report.sequences for report in again.perplexity) + 2 * len(again.scores)
    assert calls.total() == (batches - (9 * rows - 1)) * (3 - rows)
    assert again.setup.notes[-1].startswith(f"{9 * rows - 1} of the batches had been read before")
    assert not (out / "parts").exists() and (out / "result.json").is_file()


def test_what_another_model_read_is_not_taken(place, calls):
    words = ["tasks=recall", "lengths=64", "recall.pairs=4", "samples=2", "batch_tokens=1", f"out={place / 'other'}"]
    calls.limit = 1
    run_ranks(1, stopped, 1, [f"model.path={place / 'model'}", *words], threads=True)
    assert len(list((place / "other" / "parts").iterdir())) == 1
    calls.clear()
    calls.limit = 1000
    found = run_ranks(1, evaluated, 1, [f"model.path={place / 'recall'}", *words], threads=True)[0]
    assert calls.total() == 2 and found.scores[0].score == 1.0 and "batches" not in " ".join(found.setup.notes)


def test_without_room_for_its_parts_an_evaluation_goes_on(place, capsys):
    (place / "full").mkdir()
    (place / "full" / "parts").write_text("in the way")
    words = ["tasks=recall", "lengths=64", "recall.pairs=4", "samples=1", f"out={place / 'full'}"]
    found = run_ranks(1, evaluated, 1, [f"model.path={place / 'recall'}", *words], threads=True)[0]
    assert found.scores[0].score == 1.0 and (place / "full" / "result.json").is_file()
    assert "parts cannot be written (File exists): if this evaluation is stopped, it will start anew." in (
        capsys.readouterr().err
    )


def run(*words, launcher=("ringattn",)):
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "eval", *words],
        capture_output=True,
        text=True,
        timeout=110,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    return done.returncode, done.stdout, done.stderr


def test_the_command_recalls_without_a_tokenizer(place):
    words = [f"model.path={place / 'recall'}", "tasks=recall", "lengths=64,1k", "recall.pairs=4,16"]
    code, shown, errors = run(*words, "samples=1", "schedule.name=ring", f"out={place / 'able'}")
    assert code == 0, errors
    # 64 tokens hold sixteen pairs and their queries exactly.
    assert [line.split() for line in shown.splitlines() if " pairs" in line] == [
        ["4", "pairs", "100", "100"],
        ["16", "pairs", "100", "100"],
    ]
    assert "recall at 1,024 tokens: 100.0 %" in errors and f"wrote {place / 'able' / 'recall.png'}" in shown


def test_under_torchrun_the_ranks_that_are_there_are_taken(place):
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "ringattn")
    words = [f"model.path={place / 'recall'}", "tasks=recall", "lengths=64", "recall.pairs=4", "samples=1"]
    code, _, errors = run(*words, f"out={place / 'torchrun'}", launcher=launcher)
    assert code == 0, errors
    found = evaluation_json.read(place / "torchrun")
    assert found.setup.ranks == 2 and found.scores[0].score == 1.0
    assert found.setup.command.startswith("torchrun --nproc-per-node 2 -m ringattn eval ")


def test_what_one_rank_refuses_every_rank_refuses(place):
    for told in refusals(2, evaluated, 2, words_of(place, "lengths=1M", f"out={place / 'long'}"), threads=True):
        assert "the text must be longer than one sequence" in told and "lengths go to 1048576" in told
    for told in refusals(2, evaluated, 2, words_of(place, f"out={place / 'model'}"), threads=True):
        assert "an evaluation writes into a folder of its own" in told and "choose another out=" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tasks=paskey"], "tasks has no 'paskey'. Did you mean 'passkey'?"),
        (["tasks=ruler", "ruler.tasks=multikeys"], "ruler.tasks has no 'multikeys'. Did you mean 'multikey'?"),
        (["length=4k"], "there is no setting length. Did you mean 'lengths'?"),
        (["lengths=4q"], "lengths must be a number of tokens from 1 on, got '4q'"),
        (["lengths="], "lengths must be"),
        (["samples=0"], "samples must be above 0, got 0"),
        (["recall.pairs=4,x"], "recall.pairs are whole numbers above 0 with commas between, got '4,x'"),
        (["data.book=Ruth"], "data.book chooses a book of the King James Bible, and data.path="),
        (["tasks=harness"], "tasks=harness goes with harness.tasks"),
        (["model.rope_scaling=yarm"], "Did you mean 'yarn'?"),
        (["compare=nowhere"], "an earlier evaluation is read from its result.json, but nowhere is not there"),
        (["schedule.backward=ring"], "an evaluation runs no backward, got schedule.backward=ring: leave it out"),
        (["schedule.name=rings"], "unknown schedule 'rings' (did you mean 'ring'?)"),
        (["schedule.layout=zigzog"], "unknown layout 'zigzog' (did you mean 'zigzag'?)"),
        (["schedule.kernel=cpuflash"], "unknown kernel 'cpuflash' (did you mean 'cpu_flash'?); there are auto, "),
        (["launcher.restarts=2"], "there is no setting launcher.restarts."),
        (["mesh.sequence_parallel=3"], "the number of ranks must be a multiple of mesh.sequence_parallel, got 2 ranks"),
        (
            ["tasks=harness", "harness.tasks=mine", "mesh.sequence_parallel=1"],
            "all ranks read the harness's requests together",
        ),
        (["processes=3"], "processes=3 is for starting them here, but 2 are started already"),
    ],
)
def test_a_wrong_setting_is_told_before_any_rank_starts(place, words, told):
    with pytest.raises(ValueError) as refused:
        read_other(read(words_of(place, *words), world=2))
    assert told in str(refused.value)


def test_schedules_are_named_as_in_training(place):
    short = read(words_of(place, "schedule=usp:heads=2", "layout=striped", "processes=4"))
    assert short == read(
        words_of(place, "schedule.name=usp:heads=2", "schedule.layout=striped", "launcher.processes=4")
    )
    assert (short.schedule.name, short.launcher.processes) == ("usp:heads=2", 4)


def test_a_folder_that_is_no_checkpoint_is_refused(place):
    with pytest.raises(ValueError, match=r"write model\.path=FOLDER"):
        read(["tasks=passkey"])
    with pytest.raises(ValueError, match=r"must be a Hugging Face checkpoint folder .* has no config\.json"):
        read([f"model.path={place}"])


def test_lengths_texts_and_tokenizers_that_do_not_serve_are_refused(place):
    for words, told in (
        (["tasks=passkey", "lengths=64"], "passkey, 0 %: a sequence must hold the task's own words, which take"),
        (["tasks=recall", "lengths=8"], "recall of 4 pairs takes 16 tokens, four a pair, but a sequence has 8"),
        (["tasks=perplexity", "data.path=none.txt"], "data.path must be a text file, got none.txt"),
        (["data.path=articles.jsonl.gz"], "is read as it stands and must be plain text, got articles.jsonl.gz"),
        (["data.path=page.html"], "must be plain text, got page.html: write the words of its records into a .txt file"),
        (["tasks=passkey", f"model.path={place / 'recall'}"], "needs a fast tokenizer beside its weights"),
    ):
        with pytest.raises(ValueError) as refused:
            make_inputs(read(words_of(place, *words)))
        assert told in str(refused.value)


def test_the_help_names_each_setting():
    shown = help_text()
    for name in ("tasks", "lengths", "data.book", "ruler.haystack", "recall.power", "schedule.layout", "processes"):
        assert f"\n  {name} " in shown
