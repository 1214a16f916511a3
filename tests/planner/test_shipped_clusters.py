"""The shipped clusters: each is whole at any size, says where its figures are from, and shares what it must."""

import pytest

from ringattn.planner.cluster_file import cluster_names, read_cluster, unsourced


def way(cluster, source, target):
    return [cluster.lanes[lane].name for lane in cluster.way(source, target).lanes]


def rate(cluster, source, target):
    """GB/s that one message gets."""
    return min(cluster.lanes[lane].bandwidth for lane in cluster.way(source, target).lanes) / 1e9


# `this_machine` was measured, host by host: it has no more of them than it names.
OF_ANY_SIZE = [name for name in cluster_names() if name != "this_machine"]


@pytest.mark.parametrize(
    ("name", "nodes"), [("this_machine", 1), *((name, nodes) for name in OF_ANY_SIZE for nodes in (1, 2, 128))]
)
def test_it_is_whole_at_any_size(name, nodes):
    cluster = read_cluster(name, nodes=nodes)
    cluster.check()
    assert cluster.name == name
    assert cluster.world == nodes * cluster.hosts.count(cluster.hosts[0])
    assert len(set(cluster.hosts)) == nodes


@pytest.mark.parametrize("name", cluster_names())
def test_every_figure_has_a_source(name):
    assert unsourced(name) == []


def test_a_figure_without_a_source_is_found(tmp_path):
    text = "name: x\nhosts: {name: n, accelerators: 2}\nlinks: [{between: [gpu, gpu], bandwidth: 1, latency: 2}]\n"
    text += "accelerator: {name: c, memory: 1, memory_bandwidth: 1, matmul: {}, attention: {f: {forward: 1}}}\n"
    text += "sources: {accelerator: made up, links.gpu - gpu.bandwidth: made up}\n"
    (tmp_path / "x.yaml").write_text(text)
    assert unsourced(tmp_path / "x.yaml") == ["links.gpu - gpu.latency"]


@pytest.mark.parametrize(
    ("name", "inside", "between"),
    [
        # Data sheet times the efficiency that the file gives.
        ("h100_8x", 450 * 0.8, 50 * 0.8),
        ("h800_8x", 200 * 0.8, 50 * 0.8),
        ("a100_8x", 300 * 0.8, 25 * 0.8),
        ("a10_4x", 31.5 * 0.86, 12.5 * 0.8),
        ("l20_8x", 31.5 * 0.86, 25 * 0.8),
        ("mi300x_8x", 64 * 0.75, 50 * 0.8),
        ("tpu_v5p_cube", 100 * 0.9, 100 * 0.9),
    ],
)
def test_rates_in_a_host_and_between_hosts(name, inside, between):
    cluster = read_cluster(name, nodes=2)
    assert rate(cluster, 0, 1) == pytest.approx(inside)
    assert rate(cluster, 0, cluster.world - 1) == pytest.approx(between)


def test_gpus_of_one_host_talk_through_the_switch():
    cluster = read_cluster("h100_8x", nodes=2)
    assert way(cluster, 0, 1) == ["node0/gpu0 > node0/nvswitch", "node0/nvswitch > node0/gpu1"]


def test_gpus_of_two_hosts_talk_over_both_nics():
    cluster = read_cluster("h100_8x", nodes=2)
    assert way(cluster, 0, 9) == [
        "node0/gpu0 > node0/gpu0/nic",
        "node0/gpu0/nic > spine",
        "spine > node1/gpu1/nic",
        "node1/gpu1/nic > node1/gpu1",
    ]


def test_cards_under_one_root_share_its_uplink_and_the_nic():
    cluster = read_cluster("a10_4x", nodes=2)
    assert way(cluster, 0, 1) == ["node0/gpu0 > node0/pcie0", "node0/pcie0 > node0/gpu1"]
    across = way(cluster, 0, 2)
    assert across == [
        "node0/gpu0 > node0/pcie0",
        "node0/pcie0 > node0/cpu",
        "node0/cpu > node0/pcie1",
        "node0/pcie1 > node0/gpu2",
    ]
    assert set(across) & set(way(cluster, 1, 3)) == {"node0/pcie0 > node0/cpu", "node0/cpu > node0/pcie1"}
    shared = set(way(cluster, 0, 4)) & set(way(cluster, 3, 7))
    assert shared == {"node0/cpu > node0/nic", "node0/nic > spine", "spine > node1/nic", "node1/nic > node1/cpu"}


def test_a_full_mesh_shares_nothing_inside_a_host():
    cluster = read_cluster("mi300x_8x")
    pairs = [(i, j) for i in range(8) for j in range(8) if i != j]
    taken = [way(cluster, i, j) for i, j in pairs]
    assert taken[0] == ["node0/gpu0 > node0/gpu1"]
    assert len({lane for lanes in taken for lane in lanes}) == sum(map(len, taken)) == 56


def test_a_torus_wraps_around_and_forwards():
    cluster = read_cluster("tpu_v5p_cube")
    # Chip (x, y, z) is number 16 x + 4 y + z.
    assert way(cluster, 0, 3) == ["cube0/gpu0 > cube0/gpu3"]
    assert way(cluster, 0, 12) == ["cube0/gpu0 > cube0/gpu12"]
    assert way(cluster, 0, 48) == ["cube0/gpu0 > cube0/gpu48"]
    assert way(cluster, 0, 2) == ["cube0/gpu0 > cube0/gpu1", "cube0/gpu1 > cube0/gpu2"]
    assert len(cluster.links) == 3 * 64
