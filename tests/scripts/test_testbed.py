"""scripts/testbed: what topologies mean and refuse, and real hosts where this machine lets us build them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hosts import SCRIPTS, Link, Testbed, Topology, clean, needs_hosts, obstacle, parse_rate
from testbed import network
from testbed.bed import TIMED_OUT, host_commands
from testbed.flows import measure

ENTRY = str(SCRIPTS / "testbed.py")
MBIT = 1e6 / 8


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("200Mbit", 200e6),
        ("1.5Gbit", 1.5e9),
        ("25MB", 200e6),
        ("200 Mbit/s", 200e6),
        ("9600bit", 9600),
        ("1e3kbit", 1e6),
    ],
)
def test_a_rate_is_bytes_a_second(text, bits):
    assert parse_rate(text) == bits / 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("200Mbits", "in '200Mbits' 'Mbits' is no unit: did you mean 200Mbit?"),
        ("200mbit", "in '200mbit' 'mbit' is no unit: did you mean 200Mbit?"),
        ("200parsec", "'parsec' is no unit: Units are bit, B, kbit, kB, Mbit, MB, Gbit, GB"),
        ("200", "in '200' it has no unit"),
        ("fast", "a rate is a number and a unit a second, as in 200Mbit, not 'fast'"),
        ("0Mbit", "--rate must be more than 0, not 0 bytes/s"),
        ("-8Mbit", "--rate must be more than 0, not -1e+06 bytes/s"),
    ],
)
def test_a_rate_that_is_none(text, message):
    with pytest.raises(ValueError) as refusal:
        parse_rate(text)
    assert message in str(refusal.value)


def command(*arguments):
    return subprocess.run([sys.executable, ENTRY, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--hosts 4 --topology mash --rate 1Mbit", "there is no topology 'mash': did you mean 'mesh'?"),
        ("--hosts 1 --rate 1Mbit", "a test bed has 2 to 64 hosts, not 1: change --hosts"),
        ("--hosts 2 --rate 1furlong", "'furlong' is no unit"),
        ("--hosts 2 --rate 0bit", "--rate must be more than 0"),
        (
            "--hosts 4 --rate 1Mbit --between 1Mbit",
            "--between is for groups of hosts, and a mesh has none: leave it out",
        ),
        ("--hosts 4 --rate 1Mbit --inside 2", "--inside is for groups of hosts, and a mesh has none: leave it out"),
        ("--hosts 4 --rate 1Mbit --topology two-level --inside 2", "a two-level topology needs both"),
        (
            "--hosts 6 --rate 1Mbit --topology two-level --inside 4 --between 1Mbit",
            "--inside must divide the hosts into two groups or more, and 4 does not for 6 hosts: take one of 1, 2, 3",
        ),
        ("--hosts 2 --rate 1Mbit", "there is no command to run: put it after --"),
        ("--hosts 2 --rate 1Mbit --", "there is no command to run: put it after --"),
        (
            "--hosts 2 --rate 1Mbit -- bash x.sh",
            "not 'bash': write the command as one of these, or start it as it is with",
        ),
        ("--hosts 2 --rate 1Mbit -- python -c pass", "not 'python -c': python's other options need --plain"),
        ("--hosts 2 --rate 1Mbit --ranks-per-host 0 -- python x.py", "a host runs at least one rank, not 0"),
        ("--hosts 2 --rate 1Mbit --plain --ranks-per-host 2 -- x", "--plain starts one process a host, not 2"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message):
    done = command("run", *arguments.split())
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_mesh_shares_nothing():
    assert Topology.mesh(3, rate=5.0).links == (
        Link(("host0", "host1"), 5.0, shared_by=("host0", "host1")),
        Link(("host0", "host2"), 5.0, shared_by=("host0", "host2")),
        Link(("host1", "host2"), 5.0, shared_by=("host1", "host2")),
    )


def test_a_switch_has_a_port_for_each_host():
    topology = Topology.switch(2, rate=5.0)
    assert topology.links == (Link(("host0", "switch"), 5.0, ("host0",)), Link(("host1", "switch"), 5.0, ("host1",)))
    assert topology.path("host1", "host0") == ("host1", "switch", "host0")


def test_groups_share_an_uplink():
    topology = Topology.two_level(4, inside=2, rate=8.0, between=2.0)
    assert topology.groups == (("host0", "host1"), ("host2", "host3"))
    assert topology.links == (
        Link(("host0", "host1"), 8.0, ("host0", "host1")),
        Link(("host2", "host3"), 8.0, ("host2", "host3")),
        Link(("host0", "group0"), 2.0, ("host0",)),
        Link(("host1", "group0"), 2.0, ("host1",)),
        Link(("group0", "core"), 2.0, ("host0", "host1")),
        Link(("host2", "group1"), 2.0, ("host2",)),
        Link(("host3", "group1"), 2.0, ("host3",)),
        Link(("group1", "core"), 2.0, ("host2", "host3")),
    )
    assert topology.path("host0", "host1") == ("host0", "host1")
    assert topology.path("host1", "host2") == ("host1", "group0", "core", "group1", "host2")


def test_the_description_is_plain_data():
    printed = command("describe", "--hosts", "2", "--topology", "switch", "--rate", "8Mbit").stdout
    assert json.loads(printed) == {
        "topology": "switch",
        "hosts": [
            {"name": "host0", "address": "10.77.0.101", "group": 0},
            {"name": "host1", "address": "10.77.0.102", "group": 0},
        ],
        "links": [
            {
                "name": "host0-switch",
                "ends": ["host0", "switch"],
                "forward": 1e6,
                "backward": 1e6,
                "shared_by": ["host0"],
            },
            {
                "name": "host1-switch",
                "ends": ["host1", "switch"],
                "forward": 1e6,
                "backward": 1e6,
                "shared_by": ["host1"],
            },
        ],
        "routes": [
            {
                "from": source,
                "to": target,
                "links": [
                    {"link": f"{source}-switch", "direction": "forward"},
                    {"link": f"{target}-switch", "direction": "backward"},
                ],
            }
            for source, target in (("host0", "host1"), ("host1", "host0"))
        ],
    }


@pytest.mark.parametrize(
    ("command", "python", "program"),
    [
        ("ringattn train a=1", sys.executable, "-m ringattn train a=1"),
        ("/opt/bin/ringattn doctor", sys.executable, "-m ringattn doctor"),
        ("python my.py --flag", sys.executable, "my.py --flag"),
        ("python3 -m my.module 3", sys.executable, "-m my.module 3"),
        ("/opt/python3.12 my.py", "/opt/python3.12", "my.py"),
    ],
)
def test_what_torchrun_is_given(command, python, program):
    first, second = host_commands(command.split(), 2, ranks_per_host=3, plain=False)
    options = "--nnodes=2 --nproc-per-node=3 --rdzv-backend=c10d --rdzv-endpoint=10.77.0.101:29500 --rdzv-id=testbed"
    start = f"{python} -m torch.distributed.run {options} --rdzv-conf=is_host="
    assert " ".join(first) == f"{start}true --local-addr=10.77.0.101 {program}"
    assert " ".join(second) == f"{start}false --local-addr=10.77.0.102 {program}"


def test_addresses_sort_as_hosts_do():
    # torchrun gives out ranks in the order of addresses as text.
    addresses = [host["address"] for host in Topology.switch(64, rate=1.0).describe()["hosts"]]
    assert addresses == sorted(addresses)


def test_the_bucket_of_200_mbit():
    # 8 ms of it, of which 1 ms at once and the rest at 1.03 times the rate, and a queue of 20 ms.
    expected = "tbf rate 200000000bit burst 200000 peakrate 206000000bit mtu 25000 limit 500000"
    assert network.token_bucket(200 * MBIT) == expected


def test_no_iproute2(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert command("check").returncode == 2
    for arguments in (["check"], ["run", "--hosts", "2", "--rate", "1Mbit", "--plain", "--", "true"], ["measure"]):
        assert command(*arguments).stderr == "testbed: there is no `ip` on the PATH: install iproute2\n"


@needs_hosts
def test_no_root_or_no_namespaces(monkeypatch):
    before = left_behind()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 1000)
        assert obstacle() == "network namespaces need root: run it as root, or with sudo"
    monkeypatch.setattr(network, "token_bucket", lambda bandwidth: "no-such-shaper")
    assert obstacle().startswith("the kernel refuses: `tc -n testbed-")
    assert left_behind() == before


# ---- real hosts


def left_behind(pid=None):
    """The namespaces of this process or another, and every interface out here that looks like ours."""
    names = [name for name in network.namespaces() if name.startswith(f"{network.PREFIX}-{pid or os.getpid()}-")]
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True).stdout.split()
    return names + [link for link in links if link.startswith(("host", "group", "own", "switch", "core"))]


def near(wanted, attempt, *, below=0.10, above=0.06):
    """Whether rates come within 10 % of those wanted in one of five attempts; too fast is never an accident.

    A busy machine makes links slower for a moment. Beyond the rate there are the peak of 1.03, and what a reader
    that was held up before the window finds there when it opens.
    """
    seen = []
    for _ in range(5):
        seen.append([rate / want for rate, want in zip(attempt(), wanted)])
        if all(1 - below <= ratio <= 1 + above for ratio in seen[-1]):
            return True
    pytest.fail(f"rates over nominal rates, of five attempts: {seen}")


@pytest.fixture(scope="module")
def mesh():
    with Testbed(Topology.mesh(3, rate=100 * MBIT)) as bed:
        yield bed


@pytest.fixture(scope="module")
def two_level():
    with Testbed(Topology.two_level(4, inside=2, rate=200 * MBIT, between=50 * MBIT)) as bed:
        yield bed


def sent_over(bed, host, interface):
    counter = f"/sys/class/net/{interface}/statistics/tx_bytes"
    return int(subprocess.check_output(bed.network.command(f"host{host}", ["cat", counter])))


@needs_hosts
def test_each_pair_of_a_mesh_uses_its_own_link(mesh):
    before = {(a, b): sent_over(mesh, a, f"host{b}") for a in range(3) for b in range(3) if a != b}
    for pair in before:
        assert measure(mesh, [pair], seconds=0.1)[0] > 0
        after = {other: sent_over(mesh, other[0], f"host{other[1]}") for other in before}
        grown = {other: after[other] - before[other] for other in before}
        # 0.1 s of 100 Mbit/s are 1,250,000 bytes; the other direction carries acknowledgements, other links nothing
        # but the odd message of the kernel's own.
        assert grown.pop(pair) > 600_000
        assert grown.pop(pair[::-1]) < 300_000
        assert max(grown.values()) < 2_000
        before = after


@needs_hosts
@pytest.mark.parametrize("flows", [[(0, 1)], [(0, 1)] * 3, [(0, 1), (1, 0)]], ids=["one", "three", "both directions"])
def test_a_link_carries_its_rate(mesh, flows):
    directions = sorted(set(flows))

    def attempt():
        rates = measure(mesh, flows, seconds=0.6)
        return [sum(rate for rate, flow in zip(rates, flows) if flow == direction) for direction in directions]

    assert near([100 * MBIT] * len(directions), attempt)


@needs_hosts
def test_all_that_a_switch_sends_a_host_shares_its_port():
    with Testbed(Topology.switch(3, rate=100 * MBIT)) as bed:
        assert near([100 * MBIT], lambda: [sum(measure(bed, [(1, 0), (2, 0)], seconds=0.6))])
        assert near([100 * MBIT], lambda: [sum(measure(bed, [(0, 1), (0, 2)], seconds=0.6))])


@needs_hosts
def test_an_uplink_is_shared_and_a_group_inside_is_not(two_level):
    def attempt():
        inside, first, second, back = measure(two_level, [(0, 1), (0, 2), (1, 3), (3, 0)], seconds=0.8)
        assert min(first, second) > 0
        return [inside, first + second, back]

    assert near([200 * MBIT, 50 * MBIT, 50 * MBIT], attempt)


@needs_hosts
def test_torchrun_across_hosts(mesh, tmp_path):
    script = tmp_path / "all_reduce.py"
    script.write_text(
        "import os, subprocess, sys, torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "x = torch.full((1000,), 10.0 ** dist.get_rank())\n"
        "dist.all_reduce(x)\n"
        "own = subprocess.check_output('ip -brief address show own'.split(), text=True).split()[2]\n"
        "told = os.environ['GLOO_SOCKET_IFNAME'], os.environ['OMP_NUM_THREADS']\n"
        "print(dist.get_rank(), own, x.unique().tolist(), *told)\n"
        "dist.destroy_process_group()\n"
    )
    outcome = mesh.run(["python", str(script)], logs=tmp_path, timeout=100, show=False)
    said = [(tmp_path / f"host{host}.log").read_text() for host in range(3)]
    assert outcome.codes == (0, 0, 0), said
    for host in range(3):
        assert f"{host} 10.77.0.{101 + host}/32 [111.0] own 1\n" in said[host]


@needs_hosts
def test_a_plain_command_knows_its_rank(mesh, tmp_path):
    outcome = mesh.run(
        ["sh", "-c", "echo $RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT; exit 0"], plain=True, logs=tmp_path, show=False
    )
    assert outcome.code == 0
    for host in range(3):
        assert (tmp_path / f"host{host}.log").read_text() == f"{host} 3 10.77.0.101 29500\n"


@needs_hosts
def test_one_host_that_fails_ends_the_others(mesh, tmp_path):
    start = time.monotonic()
    outcome = mesh.run(
        ["sh", "-c", "test $RANK = 1 && exit 7; sleep 600"], plain=True, logs=tmp_path, show=False, timeout=60
    )
    assert (outcome.code, outcome.failed, outcome.codes) == (7, 1, (143, 7, 143))
    assert time.monotonic() - start < 20


@needs_hosts
def test_a_run_that_takes_too_long(mesh, tmp_path):
    # A process that hears no SIGTERM, in a session of its own: it is found by its namespace.
    stubborn = "setsid sh -c 'trap \"\" TERM; sleep 600' & sleep 600"
    outcome = mesh.run(["sh", "-c", stubborn], plain=True, logs=tmp_path, show=False, timeout=0.5)
    assert (outcome.code, outcome.failed) == (TIMED_OUT, None)
    assert [network.pids_within(mesh.network.namespace(host)) for host in mesh.topology.hosts] == [[], [], []]


@needs_hosts
def test_nothing_is_left_after_an_exception():
    with contextlib.suppress(KeyError), Testbed(Topology.switch(2, rate=1e6)) as bed:
        tag = bed.network.tag
        sleeper = bed.start(1, ["sleep", "600"])
        assert [name for name in left_behind() if tag in name] != []
        raise KeyError
    assert sleeper.wait() == -signal.SIGKILL
    assert [name for name in left_behind() if tag in name] == []


@contextlib.contextmanager
def running(tmp_path):
    """A run that does not end, of which every host has started and left a process behind in another session."""
    words = ["run", "--hosts", "2", "--rate", "10Mbit", "--plain", "--logs"]
    script = f"setsid sleep 600 & touch {tmp_path}/host$RANK; wait"
    process = subprocess.Popen([sys.executable, ENTRY, *words, str(tmp_path), "--", "sh", "-c", script])
    try:
        until(lambda: len(list(tmp_path.glob("host?"))) == 2)
        yield process
    finally:
        process.kill()
        process.wait()


def until(done, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def within(names):
    return [pid for name in names for pid in network.pids_within(name)]


@needs_hosts
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_takes_everything_down(tmp_path, number):
    with running(tmp_path) as process:
        pids = within(left_behind(process.pid))
        process.send_signal(number)
        assert process.wait(timeout=20) == 128 + number
        assert left_behind(process.pid) == []
    assert len(pids) >= 4
    assert not any(network.start_time(pid) for pid in pids)


@needs_hosts
def test_a_killed_run_leaves_nothing(tmp_path):
    with running(tmp_path) as process:
        pids = within(left_behind(process.pid))
        process.kill()
        process.wait()
        until(lambda: left_behind(process.pid) == [])
    assert len(pids) >= 4
    assert not any(network.start_time(pid) for pid in pids)


@needs_hosts
def test_clean_removes_what_is_dead_and_nothing_else(mesh, tmp_path):
    with running(tmp_path) as process:
        pids = within(left_behind(process.pid))
        os.kill(watcher(process.pid), signal.SIGKILL)
        process.kill()
        process.wait()
    assert len(left_behind(process.pid)) == 2
    assert [tag.split("-")[1] for tag in clean() if f"-{process.pid}-" in tag] == [str(process.pid)]
    assert left_behind(process.pid) == []
    assert not any(network.start_time(pid) for pid in pids)
    assert len([name for name in left_behind() if mesh.network.tag in name]) == 3


def watcher(owner):
    children = Path(f"/proc/{owner}/task/{owner}/children").read_text().split()
    return next(int(pid) for pid in children if b"watch" in Path(f"/proc/{pid}/cmdline").read_bytes())
