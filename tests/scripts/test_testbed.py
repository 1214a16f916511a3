"""scripts/testbed: what topologies mean and refuse, and real hosts where this machine lets us build them."""

import subprocess
import sys

import pytest
from hosts import SCRIPTS, parse_rate

ENTRY = SCRIPTS / "testbed.py"

MBIT = 1e6 / 8

# One all-reduce, and what every rank got of it into a file of its own.
ALL_REDUCE = """
import os, sys, torch, torch.distributed as dist
dist.init_process_group("gloo")
rank = dist.get_rank()
x = torch.full((1000,), float(rank + 1))
dist.all_reduce(x)
own = open("/proc/net/fib_trie").read().count("10.77.0.%d\\n" % (101 + rank)) > 0
open(f"{sys.argv[1]}/rank{rank}", "w").write(f"{x.unique().tolist()} of {dist.get_world_size()}, own address {own}")
dist.destroy_process_group()
"""


# ---- values


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
    done = subprocess.run([sys.executable, ENTRY, "run", *arguments.split()], capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
