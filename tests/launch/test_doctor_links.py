"""Measuring a cluster: what made-up transfers say of how ranks are joined, and one real run on two ranks."""

import random
import re
import subprocess
import sys

import pytest
from ringattn.launch.cli import main
from ringattn.launch.probe.graphs import Ranks, explain
from ringattn.launch.probe.predict import seconds
from ringattn.launch.probe.traffic import (
    Measured,
    Scenario,
    between_groups,
    find_groups,
    pair_rates,
    pairs,
    together,
)

from ringattn.planner.cluster_file import read_cluster, unsourced
from ringattn.planner.cluster_links import Host

MB = 1e6


def one_each(number):
    """Hosts of one rank."""
    return Ranks([Host(f"node{index}", 1) for index in range(number)])


def link(a, b, rate, **more):
    return {"between": [a, b], "bandwidth": rate, "latency": 0.0, **more}


def timed(truth, ranks, *, noise=0.0, size=2**22):
    """What would be measured on a cluster of these links, off by up to `noise` either way."""
    cluster, draw = ranks.cluster(truth), random.Random(0)

    def times(scenarios):
        return [
            Measured(s, size, seconds(cluster, s.flows, size) * (1 + draw.uniform(-noise, noise))) for s in scenarios
        ]

    alone = times(pairs(ranks.world))
    groups = find_groups(pair_rates(alone), ranks.world)
    return [*alone, *times(together(ranks.world)), *times(between_groups(groups))]


def by_ends(found):
    return {" - ".join(each["between"]): each for each in found.links}


def test_transfers_share_a_link_fairly():
    # 0 sends 10 MB to 1 and to 2 over its port of 10 MB/s; 3 sends to 2, whose port is the limit of neither.
    cluster = one_each(4).cluster([link("gpu", "switch", 10 * MB)])
    assert seconds(cluster, [(0, 1)], 10 * MB) == pytest.approx(1)
    assert seconds(cluster, [(0, 1), (0, 2)], 10 * MB) == pytest.approx(2)
    assert seconds(cluster, [(0, 1), (1, 0)], 10 * MB) == pytest.approx(1)
    # 0 gets half of its port for each; so does 3 at the port of 2 until 1 s, then all of it is done by 2 s.
    assert seconds(cluster, [(0, 1), (0, 2), (3, 2)], 10 * MB) == pytest.approx(2)


def test_what_one_leaves_the_others_get():
    # 0 sends at 2 MB/s at most; of the 10 MB/s into 1, rank 2 gets the 8 that are left.
    links = [link("node0.gpu0", "switch", 2 * MB), link("node1.gpu0", "switch", 10 * MB)]
    cluster = one_each(3).cluster([*links, link("node2.gpu0", "switch", 10 * MB)])
    assert seconds(cluster, [(0, 1), (2, 1)], 8 * MB) == pytest.approx(4)
    assert seconds(cluster, [(2, 1)], 8 * MB) == pytest.approx(0.8)


def test_which_transfers_are_timed():
    assert [s.name for s in pairs(3)] == ["0 to 1", "0 to 2", "1 to 0", "1 to 2", "2 to 0", "2 to 1"]
    assert [s.name for s in together(2)] == ["0 and 1"]
    assert [f"{s.kind} {s.name}" for s in together(3)] == [
        "both ways 0 and 1",
        "both ways 1 and 2",
        "fan-out 0 to all",
        "fan-out 1 to all",
        "fan-out 2 to all",
        "fan-in all to 0",
        "fan-in all to 1",
        "fan-in all to 2",
        "shift each to the 1. next",
        "shift each to the 2. next",
    ]
    assert Scenario("fan-out", "", ((0, 1), (0, 2), (1, 2))).busiest == 2


@pytest.mark.parametrize("world", [16, 64])
def test_many_ranks_are_sampled(world):
    alone, joint = pairs(world), together(world)
    assert len(alone) <= 4 * world and len(joint) <= 30
    assert {rank for s in alone for rank in s.flows[0]} == set(range(world))


def test_groups_are_told_by_the_widest_gap():
    fast, slow = 50.0, 10.0
    rates = {(i, j): fast if i // 2 == j // 2 else slow for i in range(4) for j in range(4) if i != j}
    assert find_groups(rates, 4) == [[0, 1], [2, 3]]
    assert find_groups(dict.fromkeys(rates, 20.0), 4) == []
    # One slow pair makes no groups: its ranks reach each other fast through a third one's.
    assert find_groups({**dict.fromkeys(rates, 20.0), (0, 1): 5.0}, 4) == []
    assert [s.flows for s in between_groups([[0, 1], [2, 3]])] == [((0, 2), (1, 3)), ((2, 0), (3, 1))]


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("world", [2, 4, 6])
def test_a_mesh(world, noise):
    ranks = one_each(world)
    found = explain(timed([link("gpu", "gpu", 25 * MB, scope="cluster")], ranks, noise=noise), ranks)[0]
    assert found.shape == "a link for each pair"
    assert all(each["bandwidth"] == pytest.approx(25 * MB, rel=0.06) for each in found.links)
    assert found.error <= noise + 1e-9


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("world", [3, 4, 16])
def test_a_switch(world, noise):
    ranks = one_each(world)
    found = explain(timed([link("gpu", "switch", 25 * MB)], ranks, noise=noise), ranks)[0]
    assert found.shape == "a port for each rank at one switch"
    assert by_ends(found)["gpu - switch"]["bandwidth"] == pytest.approx(25 * MB, rel=0.06)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_groups_with_an_uplink(noise):
    ranks = one_each(4)
    truth = [link("node0.gpu0", "node1.gpu0", 50 * MB), link("node2.gpu0", "node3.gpu0", 50 * MB)]
    for index in range(4):
        truth.append(link(f"node{index}.gpu0", f"group{index // 2}", 12 * MB))
    truth += [link("group0", "core", 12 * MB), link("group1", "core", 12 * MB)]
    found = explain(timed(truth, ranks, noise=noise), ranks)[0]
    assert found.shape == "groups: a link for each pair inside, a shared uplink"
    links = by_ends(found)
    assert links["node0.gpu0 - node1.gpu0"]["bandwidth"] == pytest.approx(50 * MB, rel=0.06)
    assert links["node3.gpu0 - group1"]["bandwidth"] == pytest.approx(12 * MB, rel=0.06)
    assert links["group0 - core"]["bandwidth"] == pytest.approx(12 * MB, rel=0.06)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_loopback_that_all_share(noise):
    ranks = Ranks([Host("node0", 4)])
    truth = [link("gpu", "sent", 3000 * MB, one_way=True), link("sent", "received", 3500 * MB, one_way=True)]
    truth += [link("received", "gpu", 3000 * MB, one_way=True)]
    found = explain(timed(truth, ranks, noise=noise), ranks)[0]
    assert found.shape == "one medium that all share"
    assert by_ends(found)["sent - received"]["bandwidth"] == pytest.approx(3500 * MB, rel=0.06)


def test_two_ranks_whose_directions_share_a_link():
    ranks = Ranks([Host("node0", 2)])
    found = explain(timed([link("gpu", "gpu", 1000 * MB, half_duplex=True)], ranks, noise=0.05), ranks)[0]
    assert found.shape == "a link for each pair, both directions sharing it"
    assert found.links[0]["half_duplex"] and found.links[0]["bandwidth"] == pytest.approx(1000 * MB, rel=0.06)


def test_two_ranks_that_gain_a_little_by_both_directions():
    ranks = Ranks([Host("node0", 2)])
    truth = [link("gpu", "sent", 1000 * MB, one_way=True), link("sent", "received", 1400 * MB, one_way=True)]
    found = explain(timed([*truth, link("received", "gpu", 1000 * MB, one_way=True)], ranks, noise=0.03), ranks)[0]
    assert found.shape == "one medium that all share"
    assert by_ends(found)["sent - received"]["bandwidth"] == pytest.approx(1400 * MB, rel=0.06)


def test_hosts_with_a_loopback_and_a_port_each():
    ranks = Ranks([Host("node0", 2), Host("node1", 2)])
    truth = []
    for host in ("node0", "node1"):
        for gpu in range(2):
            truth.append(link(f"{host}.gpu{gpu}", f"{host}.sent", 1000 * MB, one_way=True))
            truth.append(link(f"{host}.received", f"{host}.gpu{gpu}", 1000 * MB, one_way=True))
        truth.append(link(f"{host}.sent", f"{host}.received", 1000 * MB, one_way=True))
        truth.append(link(f"{host}.sent", "network", 100 * MB, one_way=True))
        truth.append(link("network", f"{host}.received", 100 * MB, one_way=True))
    found = explain(timed(truth, ranks), ranks)[0]
    assert found.shape == "hosts: one medium inside each, a port for each host"
    assert by_ends(found)["node1.sent - network"]["bandwidth"] == pytest.approx(100 * MB)


def test_links_that_differ_are_kept_apart():
    ranks = one_each(3)
    truth = [link("node0.gpu0", "node1.gpu0", 20 * MB), link("node0.gpu0", "node2.gpu0", 30 * MB, back=25 * MB)]
    found = explain(timed([*truth, link("node1.gpu0", "node2.gpu0", 20 * MB)], ranks), ranks)[0]
    uneven = by_ends(found)["node0.gpu0 - node2.gpu0"]
    assert found.shape == "a link for each pair"
    assert (uneven["bandwidth"], uneven["back"]) == pytest.approx((30 * MB, 25 * MB))


def test_latency_is_that_of_the_two_ends():
    ranks = one_each(3)
    found = explain(timed([link("gpu", "switch", 25 * MB)], ranks), ranks, latency=1e-3)[0]
    assert ranks.cluster(found.links).way(0, 2).latency == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--links", "--rank", "2"], "`ringattn doctor --links` has no option --rank (did you mean '--ranks'?)"),
        (["--links", "--ranks", "two"], "argument --ranks: invalid int value: 'two'"),
        (["--links", "--ranks", "1"], "links join two ranks or more, got --ranks 1"),
        (["--links", "--threads", "0"], "--threads is a number of at least 1, got 0"),
        (["--links", "--seconds", "0"], "--seconds is a time above 0 and at most 12, got 0"),
        (
            ["--links", "--out", "missing/x.yaml"],
            "in a folder that is there and may be written to, got 'missing/x.yaml'",
        ),
        (["--links", "x"], "unrecognized arguments: x"),
        (["--quick"], "`ringattn doctor` takes no arguments, got '--quick'"),
    ],
)
def test_a_mistake_gives_one_line(words, message, capsys):
    assert main(["doctor", *words]) == 2
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "world", "message"),
    [(["--ranks", "2"], "2", "torchrun has started them already"), ([], "1", "torchrun has started one")],
)
def test_under_torchrun_the_ranks_are_there(words, world, message, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", world)
    assert main(["doctor", "--links", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_help_shows_links(capsys):
    assert main(["doctor", "--help"]) == 0
    assert "--links [--ranks N] [--out FILE]" in capsys.readouterr().out


def test_two_ranks_are_measured(tmp_path):
    """The whole command, with little patience: figures are rough, the file is one."""
    words = ["doctor", "--links", "--quick", "--ranks", "2", "--out", str(tmp_path / "here.yaml")]
    done = subprocess.run([sys.executable, "-m", "ringattn", *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "pair 2 of 2: rank 1 to 0" in done.stderr
    rows = [line for line in done.stdout.splitlines() if re.match(r"(pair|both ways) .* MB/s .* MB/s +[+-]\d+%$", line)]
    assert len(rows) == 3
    cluster = read_cluster(tmp_path / "here.yaml")
    assert cluster.name == "here" and cluster.ranks == ("node0/gpu0", "node0/gpu1")
    assert unsourced(tmp_path / "here.yaml") == []
    kernel = cluster.accelerator.attention["float32"]
    assert [rate.edge for rate in kernel.backward] == [64, 128] and 0 < kernel.causal <= 1
    assert cluster.overhead.message > 0
    assert "measured with ringattn doctor --links --quick" in cluster.sources["links"]
