"""The format of cluster files: what each way to write a link stands for, and one clear error for each mistake."""

import copy
import dataclasses
from pathlib import Path

import pytest
import yaml

from ringattn.planner.cluster import Link, Overhead, Rate
from ringattn.planner.cluster_description import AGAINST, build
from ringattn.planner.cluster_file import cluster_names, read_cluster, write_cluster
from ringattn.planner.cluster_links import Host, Rates, endpoint, links_between
from ringattn.planner.units import BANDWIDTH, FLOPS, SIZE, TIME

ACCELERATOR = {
    "name": "chip",
    "memory": "80 GB",
    "memory_bandwidth": "2 TB/s",
    "matmul": {"bfloat16": "300 TFLOP/s"},
    "attention": {"bfloat16": {"forward": "200 TFLOP/s", "backward": [{"edge": 128, "rate": 1e14}]}},
}


def described(links, hosts=None, **more):
    hosts = {"name": "node", "count": 2, "accelerators": 2} if hosts is None else hosts
    return {"name": "made up", "hosts": hosts, "accelerator": copy.deepcopy(ACCELERATOR), "links": links, **more}


HOSTS = [Host("node0", 2), Host("node1", 2)]


def ends(a, b, *, across=False):
    """The two places of each link that an entry stands for."""
    places = (endpoint(text, HOSTS, "links[0]") for text in (a, b))
    links = links_between(*places, Rates(1.0, 1.0, 0.0, False), across=across)
    return [f"{link.a} {link.b}" for link in links]


@pytest.mark.parametrize(
    ("quantity", "written", "value"),
    [
        (BANDWIDTH, "450 GB/s", 450e9),
        (BANDWIDTH, "400 Gb/s", 50e9),
        (BANDWIDTH, "200Mbit/s", 25e6),
        (BANDWIDTH, "1 GiB/s", 2**30),
        (BANDWIDTH, 1e9, 1e9),
        (BANDWIDTH, "1e9", 1e9),
        (FLOPS, "989 TFLOP/s", 989e12),
        (SIZE, "80 GB", 80e9),
        (SIZE, "80 GiB", 80 * 2**30),
        (TIME, "2 us", 2e-6),
        (TIME, "5 ms", 5e-3),
        (TIME, 0.5, 0.5),
    ],
)
def test_units(quantity, written, value):
    assert quantity.read(written, "here") == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    ("quantity", "value", "written"),
    [
        (BANDWIDTH, 25e6, "25 MB/s"),
        (TIME, 2e-6, "2 us"),
        (TIME, 0.0, "0 ns"),
        (FLOPS, 1.5e12, "1.5 TFLOP/s"),
        (SIZE, 5, "5 B"),
    ],
)
def test_numbers_are_written_with_units_and_read_back(quantity, value, written):
    assert quantity.write(value) == written
    assert quantity.read(written, "here") == pytest.approx(value, rel=1e-15)


def test_ranks_are_numbered_host_by_host():
    cluster = build(described([{"between": ["gpu", "switch"], "bandwidth": "1 GB/s"}]))
    assert cluster.ranks == ("node0/gpu0", "node0/gpu1", "node1/gpu0", "node1/gpu1")
    assert cluster.hosts == ("node0", "node0", "node1", "node1")


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        (["gpu", "spine"], ["node0/gpu0 spine", "node0/gpu1 spine", "node1/gpu0 spine", "node1/gpu1 spine"]),
        (["gpu[1]", "spine"], ["node0/gpu1 spine", "node1/gpu1 spine"]),
        (
            ["gpu", "host.pcie"],
            ["node0/gpu0 node0/pcie", "node0/gpu1 node0/pcie", "node1/gpu0 node1/pcie", "node1/gpu1 node1/pcie"],
        ),
        (["gpu", "gpu"], ["node0/gpu0 node0/gpu1", "node1/gpu0 node1/gpu1"]),
        (["gpu[0]", "gpu[1]"], ["node0/gpu0 node0/gpu1", "node1/gpu0 node1/gpu1"]),
        (["host.nic", "host.nic"], ["node0/nic node1/nic"]),
        (["host.pcie", "host.nic"], ["node0/pcie node0/nic", "node1/pcie node1/nic"]),
        (["host.nic", "spine"], ["node0/nic spine", "node1/nic spine"]),
        (["gpu", "gpu.nic"], [f"{gpu} {gpu}/nic" for gpu in ("node0/gpu0", "node0/gpu1", "node1/gpu0", "node1/gpu1")]),
        (["gpu[0].nic", "spine"], ["node0/gpu0/nic spine", "node1/gpu0/nic spine"]),
        (["node1.gpu0", "node0.nic"], ["node1/gpu0 node0/nic"]),
        (["node1.gpu0.nic", "spine"], ["node1/gpu0/nic spine"]),
        (["core", "spine"], ["core spine"]),
    ],
)
def test_what_the_ends_of_a_link_stand_for(between, expected):
    assert ends(*between) == expected


def test_every_pair_of_the_cluster():
    assert ends("gpu", "gpu", across=True) == [
        "node0/gpu0 node0/gpu1",
        "node0/gpu0 node1/gpu0",
        "node0/gpu0 node1/gpu1",
        "node0/gpu1 node1/gpu0",
        "node0/gpu1 node1/gpu1",
        "node1/gpu0 node1/gpu1",
    ]
    pair = [{"between": ["gpu", "gpu"], "bandwidth": 1, "scope": "cluster"}]
    assert len(build(described(pair)).links) == 6


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([4], ["0 1", "1 2", "2 3", "0 3"]),
        ([2, 2], ["0 2", "0 1", "1 3", "2 3"]),
        ([2, "any"], ["0 2", "0 1", "1 3", "2 3"]),
    ],
)
def test_a_torus_joins_neighbours_and_wraps_around(sizes, expected):
    names = {f"node{i // 2}/gpu{i % 2}": str(i) for i in range(4)}
    cluster = build(described([{"torus": sizes, "bandwidth": 1}]))
    pairs = {" ".join(sorted((names[link.a], names[link.b]))) for link in cluster.links}
    assert pairs == set(expected) and len(cluster.links) == len(expected)


def test_rates_of_both_directions():
    def link(**more):
        entry = {"between": ["gpu[0]", "gpu[1]"], "bandwidth": "10 GB/s", **more}
        return build(described([entry], hosts={"name": "node", "accelerators": 2})).links[0]

    gpus = ("node0/gpu0", "node0/gpu1")
    assert link() == Link(*gpus, 10e9, 10e9, 0.0, False)
    assert link(back="2 GB/s", latency="3 us") == Link(*gpus, 10e9, 2e9, 3e-6, False)
    assert link(efficiency=0.5) == Link(*gpus, 5e9, 5e9, 0.0, False)
    assert link(half_duplex=True) == Link(*gpus, 10e9, 10e9, 0.0, True)
    assert link(one_way=True) == Link(*gpus, 10e9, AGAINST, 0.0, False)


def test_kernels_and_overhead():
    star = [{"between": ["gpu", "star"], "bandwidth": 1}]
    cluster = build(described(star, overhead={"step": "30 us", "rendezvous": "1 ms"}, sources={"all": "made up"}))
    kernel = cluster.accelerator.attention["bfloat16"]
    assert kernel.forward == (Rate(1, 200e12),) and kernel.backward == (Rate(128, 1e14),)
    assert cluster.overhead == Overhead(step=30 * 1e-6, rendezvous=1e-3)
    assert cluster.sources == {"all": "made up"}


def test_hosts_of_different_sizes_and_fewer_of_them():
    hosts = [{"name": "small", "accelerators": 1}, {"name": "big", "accelerators": 3}]
    links = [{"between": ["gpu", "switch"], "bandwidth": 1}]
    assert build(described(links, hosts=hosts)).ranks == ("small/gpu0", "big/gpu0", "big/gpu1", "big/gpu2")
    assert build(described(links, hosts=hosts), nodes=1).ranks == ("small/gpu0",)


def test_a_written_cluster_reads_back_the_same(tmp_path):
    links = [
        {"between": ["gpu", "gpu.nic"], "bandwidth": "31.5 GB/s", "back": "7 GB/s", "latency": "1.25 us"},
        {"between": ["gpu.nic", "in"], "bandwidth": "1 GB/s", "half_duplex": True},
        {"between": ["in", "out"], "bandwidth": 123456789, "one_way": True},
        {"between": ["out", "gpu"], "bandwidth": "1 GB/s"},
    ]
    cluster = build(described(links, overhead={"step": "30 us"}, sources={"links": "made up"}))
    write_cluster(cluster, tmp_path / "whole.yaml")
    again = read_cluster(tmp_path / "whole.yaml")
    for field in dataclasses.fields(cluster):
        assert getattr(again, field.name) == getattr(cluster, field.name)


def test_a_written_description_keeps_its_words(tmp_path):
    plain = described([{"between": ["gpu", "switch"], "bandwidth": "450 GB/s"}])
    write_cluster(plain, tmp_path / "plain.yaml")
    assert yaml.safe_load((tmp_path / "plain.yaml").read_text()) == plain


def test_the_example_of_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text(encoding="utf-8")
    found = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    cluster = build(found)
    assert cluster.world == 8
    assert [cluster.lanes[lane].name for lane in cluster.way(0, 4).lanes] == [
        "node0/gpu0 > node0/pcie",
        "node0/pcie > node0/nic",
        "node0/nic > switch",
        "switch > node1/nic",
        "node1/nic > node1/pcie",
        "node1/pcie > node1/gpu0",
    ]


def with_link(**more):
    return described([{"between": ["gpu", "switch"], "bandwidth": "1 GB/s", **more}])


def with_accelerator(**more):
    found = with_link()
    found["accelerator"].update(more)
    return found


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (described([{"between": ["gpu", "switch"]}]), "links[0].bandwidth is missing"),
        (with_link(bandwidth="-1 GB/s"), "links[0].bandwidth must be above 0, got '-1 GB/s'"),
        (with_link(bandwidth=0), "links[0].bandwidth must be above 0, got 0"),
        (with_link(bandwidth="450 Gigs"), "there is no unit 'Gigs' for that"),
        (with_link(bandwidth="450 GBs"), "(did you mean 'GB/s'?)"),
        (with_link(bandwidth="fast"), "links[0].bandwidth must be bytes/s, got 'fast'"),
        (with_link(bandwidth=True), "links[0].bandwidth must be bytes/s, got True"),
        (with_link(bandwidth=float("nan")), "links[0].bandwidth must be a finite number"),
        (with_link(latency="-2 us"), "links[0].latency must not be negative"),
        (with_link(latency="2 GB"), "there is no unit 'GB' for that"),
        (with_link(bandwith=1), "there is no key links[0].bandwith (did you mean 'bandwidth'?)"),
        (with_link(efficiency=1.5), "links[0].efficiency is a fraction of the bandwidth, at most 1"),
        (with_link(half_duplex=True, back=1), "links[0] has back and half_duplex, which exclude each other"),
        (with_link(half_duplex="yes"), "links[0].half_duplex must be true or false"),
        (
            with_link(scope="clusters"),
            "links[0].scope must be host or cluster, got 'clusters' (did you mean 'cluster'?)",
        ),
        (with_link(torus=[4]), "links[0] must have either between"),
        (with_link(between=["gpu"]), "links[0].between must be two places"),
        (with_link(between=["gpu", "a b"]), "got 'a b'"),
        (with_link(between=["gpu", "node7.nic"]), "there is no host 'node7', got 'node7.nic' (did you mean 'node1'?)"),
        (with_link(between=["gpu[0-2]", "switch"]), "host node0 has gpu0 to gpu1, got 'gpu[0-2]'"),
        (with_link(between=["node1.gpu2", "switch"]), "host node1 has gpu0 to gpu1, got 'node1.gpu2'"),
        (with_link(between=["gpu[1-0]", "switch"]), "accelerators are written gpu[0-3] or gpu[0,2]"),
        (with_link(between=["gpu0", "switch"]), "'gpu0' alone is no place"),
        (with_link(between=["host", "switch"]), "write host.NAME for a place in each host"),
        (with_link(between=["gpu[0]", "switch"]), "no links lead from node0/gpu0 (rank 0) to node0/gpu1 (rank 1)"),
        (described([]), "every rank must reach every other: add the missing link"),
        (described([{"torus": [3, 2], "bandwidth": 1}]), "3 x 2 = 6 is not 4"),
        (described([{"torus": [3, "any"], "bandwidth": 1}]), "3 x any does not divide 4"),
        (described([{"torus": [0, 4], "bandwidth": 1}]), "links[0].torus must be sizes above 0"),
        (described({"between": 1}), "links must be a list of links"),
        (with_accelerator(memory=None), "accelerator.memory is missing"),
        (with_accelerator(memory="0 GB"), "accelerator.memory must be above 0"),
        (with_accelerator(matmul={"bfloat16": "-1 TFLOP/s"}), "accelerator.matmul.bfloat16 must be above 0"),
        (with_accelerator(attention={}), "accelerator.attention must have a kernel"),
        (
            with_accelerator(attention={"bfloat16": {"forward": 1}}),
            "accelerator.attention.bfloat16.backward is missing",
        ),
        (
            with_accelerator(attention={"bfloat16": {"forward": 1, "backward": 1, "causal": 2}}),
            "accelerator.attention.bfloat16.causal is a fraction of the full rate, at most 1, got 2",
        ),
        (
            with_accelerator(
                attention={"x": {"forward": [{"edge": 2, "rate": 1}, {"edge": 1, "rate": 1}], "backward": 1}}
            ),
            "accelerator.attention.x.forward must be rates at ascending block edges, got edges [2, 1]",
        ),
        (described([], hosts={"name": "node"}), "hosts.accelerators is missing"),
        (described([], hosts={"name": "node", "accelerators": 0}), "hosts.accelerators must be a whole number"),
        (described([], hosts=[]), "hosts must be a mapping"),
        (described([], hosts=[{"name": "a", "accelerators": 1}] * 2), "'a' is there twice"),
        (described([], overhead={"steps": 1}), "there is no key overhead.steps (did you mean 'step'?)"),
        (described([], overheads={}), "there is no key overheads (did you mean 'overhead'?)"),
    ],
)
def test_a_mistake_gives_one_error(found, message):
    with pytest.raises(ValueError) as caught:
        build(found)
    assert message in str(caught.value)


def test_a_misspelled_place_leads_nowhere():
    links = [{"between": ["gpu", "host.switch"], "bandwidth": 1}, {"between": ["host.swich", "spine"], "bandwidth": 1}]
    with pytest.raises(ValueError, match=r"only one link leads to node0/swich \(did you mean 'node0/switch'\?\)"):
        build(described(links))


def test_hosts_described_one_by_one_have_a_number():
    hosts = [{"name": "a", "accelerators": 1}, {"name": "b", "accelerators": 1}]
    with pytest.raises(ValueError, match="this cluster is 2 hosts, described one by one, and cannot have 3"):
        build(described([{"between": ["gpu", "switch"], "bandwidth": 1}], hosts=hosts), nodes=3)
    with pytest.raises(ValueError, match="the number of nodes must be at least 1, got 0"):
        build(with_link(), nodes=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "bad.yaml: the file is empty"),
        ("name: [unclosed\nlinks: 3\n", "bad.yaml: not readable as YAML in line"),
        ("- a\n", "bad.yaml: a cluster file has keys and values, got list"),
        ("name: x\n", "bad.yaml: hosts is missing"),
    ],
)
def test_a_file_that_is_none(tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ValueError) as caught:
        read_cluster(tmp_path / "bad.yaml")
    assert message in str(caught.value)


def test_an_unknown_name_suggests_one():
    with pytest.raises(ValueError, match=r"there is no cluster 'h100_8' \(did you mean 'h100_8x'\?\): name one of"):
        read_cluster("h100_8")
    with pytest.raises(ValueError, match=r"there is no file 'missing/mine\.yaml'"):
        read_cluster("missing/mine.yaml")
    assert "h100_8x" in cluster_names()


def test_writing_refuses_a_description_that_reading_would(tmp_path):
    with pytest.raises(ValueError, match="links must be a list of links"):
        write_cluster(described(3), tmp_path / "x.yaml")
    assert not (tmp_path / "x.yaml").exists()
