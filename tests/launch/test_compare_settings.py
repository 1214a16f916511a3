"""The settings of `ringattn compare`: what words make, and what each mistake is told."""

import pytest
import torch
from ringattn.launch.about import Place, host_names
from ringattn.launch.cli import main
from ringattn.launch.compare.assemble import _aligned
from ringattn.launch.compare.settings import cluster_of, folder_of, help_text, read, split_schedules
from ringattn.launch.compare.state_settings import states_help_text

from ringattn.measure import RankPass, Recording, Shards, known_bytes
from ringattn.planner.timeline import Event, RankTimeline
from ringattn.schedule import schedules
from ringattn.schedule.traffic import Tensors
from ringattn.sequence.mask import Mask


def test_without_words_all_schedules_run_over_two_ranks():
    config = read([])
    assert config.ranks == 2 and config.named == schedules() and config.mask == Mask()


def test_words_are_read_as_yaml_reads_them():
    config = read(["ranks=4", "length=100", "window=null", "causal=false", "documents=0,40,100", "dtype=bfloat16"])
    assert (config.ranks, config.length, config.dtype) == (4, 100, "bfloat16")
    assert config.mask == Mask(causal=False, documents=(0, 40, 100))
    assert read(["length=8k"]).length == 8192
    assert read(["documents=[0,40,2048]"]).documents == "0,40,2048"
    assert read(["launcher.processes=3"]).ranks == read(["processes=3"]).ranks == 3


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("ring", ["ring"]),
        ("ring,tokenring,ring", ["ring", "tokenring"]),
        ("usp:heads=2,grid:heads=1,queries=2,keys=2,ring", ["usp:heads=2", "grid:heads=1,queries=2,keys=2", "ring"]),
        ("mine.py:one, other.py:two", ["mine.py:one", "other.py:two"]),
    ],
)
def test_a_number_after_a_comma_belongs_to_the_schedule_before(words, names):
    assert split_schedules(words) == names


def test_a_backward_of_another_schedule_is_in_the_name():
    assert [read(["backward=ring"]).label(name) for name in ("ring", "auto")] == ["ring", "auto, backward ring"]


def test_the_workload_counts_what_is_sent():
    workload = read(["length=100", "dtype=bfloat16", "key_heads=4"]).workload(2)
    assert workload.tensors == Tensors(1, 8, 4, 64, item_bytes=2, sum_bytes=4)
    assert workload.query_layout.name == "zigzag" and workload.query_layout.length == 100


MISTAKES = [
    (["ranks=1"], "schedules are compared over two ranks or more, since one alone sends nothing, got 1"),
    (["schedules=rng"], "unknown schedule 'rng' (did you mean 'ring'?)"),
    (["backward=rng"], "unknown schedule 'rng' (did you mean 'ring'?)"),
    (["lenght=8"], "there is no setting lenght. Did you mean 'length'?"),
    (["8192"], "a setting is written key=value, got '8192'"),
    (["length=1"], "each rank needs a token at least, got length=1 for 2 ranks: write for example length=2048."),
    (["query_heads=3"], "query_heads must be a multiple of key_heads, got 3 and 2: write for example key_heads=3."),
    (["dtype=fp32"], "dtype must be one of float32, float64, bfloat16, float16, got 'fp32'. Did you mean 'float32'?"),
    (["repeats=0"], "repeats must be above 0, got 0"),
    (["length=many"], "length must be a number of tokens from 1 on, got 'many': write length=131072, 128k or 1M."),
    (["layout=zig"], "unknown layout 'zig' (did you mean 'zigzag'?)"),
    (["kernel=cpuflash"], "unknown kernel 'cpuflash' (did you mean 'cpu_flash'?)"),
    (["documents=0,7"], "documents must end with the length of the sequence"),
    (["documents=a,b"], "documents are whole numbers with commas between, got 'a,b'"),
    (["window=0"], "window must be at least 1"),
    (["schedules=,"], "there is no schedule to run"),
    (["cluster=a10_4x", "ranks=8"], "cluster 'a10_4x' has 4 ranks, but 8 are compared"),
    (["cluster=a10_x4"], "there is no cluster 'a10_x4' (did you mean 'a10_4x'?)"),
    (["cluster=a10_4x", "dtype=float64"], "has no attention rate for float64"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_a_mistake_gives_one_line_before_any_rank_starts(words, message, capsys):
    assert main(["compare", *words]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and shown.err.count("\n") == 1 and shown.out == ""


def test_ranks_that_are_there_are_not_started_again():
    assert read([], world=4).ranks == 4
    with pytest.raises(ValueError, match="ranks=2 is for starting them here, but 4 are started already: leave it out"):
        read(["ranks=2"], world=4)


def test_a_folder_that_exists_is_refused(tmp_path, capsys):
    assert main(["compare", f"folder={tmp_path}"]) == 2
    assert f"{tmp_path} exists: choose another folder=..." in capsys.readouterr().err
    assert folder_of(read([f"folder={tmp_path}/new"])) == tmp_path / "new"


def test_a_cluster_that_nobody_named_may_be_missing():
    cluster, about = cluster_of(read(["ranks=64"]))
    assert cluster is None and about.startswith("nothing is predicted: ")
    assert cluster_of(read(["cluster=null"])) == (None, "nothing is predicted (cluster=null)")


def test_a_cluster_is_cut_to_the_ranks_at_hand():
    cluster, about = cluster_of(read(["cluster=a10_4x", "dtype=bfloat16"]))
    assert cluster is not None and cluster.world == 2 and about == "predicted for cluster a10_4x"


def test_the_help_tells_of_every_setting(capsys):
    assert main(["compare", "--help"]) == 0
    assert help_text() in capsys.readouterr().out
    for name in ("ranks", "schedules", "documents", "cluster", "folder", "launcher.threads"):
        assert f"\n  {name} " in f"\n{help_text()}"
    for name in ("mixer", "routes", "dtype", "error"):
        assert f"\n  {name} " in f"\n{states_help_text()}"


def test_hosts_of_one_name_are_told_apart_by_their_networks():
    here, there = Place("a", "1", "x"), Place("a", "2", "x")
    assert host_names([here, here, there, Place("b", "1", "y")]) == ("a (1)", "a (1)", "a (2)", "b")


def test_ranks_that_share_a_clock_are_aligned_by_it():
    """Two ranks of one host begin 1 s apart; the third has a clock of its own, which begins at its own start."""

    def rank(number, began):
        event = Event("compute", "forward", 0, 0.0, 2.0)
        return RankPass(recordings=[Recording(began, RankTimeline(number, (event,)))])

    ranks = [rank(0, 11.0), rank(1, 10.0), rank(2, 500.0)]
    found = _aligned(ranks, ["x", "x", "y"], 0)
    assert [(t.events[0].start, t.events[0].stop) for t in found] == [(1.0, 3.0), (0.0, 2.0), (0.0, 2.0)]


@pytest.mark.parametrize(
    ("dtype", "forward", "backward"),
    [
        # 2 x 3 rows and heads of 4: 24 numbers of query, grad_out, out; 8 of key, value; 6 of lse, and of delta.
        (torch.float32, 4 * (24 + 24 + 8 + 8 + 24 + 6), 4 * (24 + 24 + 8 + 8 + 24 + 6 + 6 + 24 + 8 + 8)),
        # In 16 bits all but lse and delta take half, and sums stand beside the results.
        (torch.bfloat16, 2 * 88 + 4 * (6 + 24), 2 * 88 + 4 * (6 + 6) + (2 + 4) * (24 + 8 + 8)),
    ],
)
def test_the_memory_that_the_runtime_knows_of(dtype, forward, backward):
    query, key = torch.zeros(1, 2, 3, 4, dtype=dtype), torch.zeros(1, 2, 1, 4, dtype=dtype)
    shards = Shards(query=query, key=key, value=key, grad_out=query, length=4, mask=Mask())
    assert [known_bytes(shards, backward=back) for back in (False, True)] == [forward, backward]
