"""What each launcher is told to start, and what is said where it cannot be."""

import shlex
import socket
import sys
import threading
from pathlib import Path

import pytest
from ringattn.launch.cli import main
from ringattn.launch.compose import compose
from ringattn.launch.launchers import command, write_hostfile
from ringattn.launch.meeting import Prepared, guest, meet
from ringattn.launch.place import holder, interface_of, node_rank
from ringattn.launch.slurm import script
from tiny_run import tiny_overrides, write_text

from ringattn.settings.hosts import Host, parse_hosts, read_hostfile
from ringattn.settings.launcher import LauncherConfig, num_ranks

FOLDER = Path("/shared/run")


def composed(tmp_path, *words):
    return compose([*tiny_overrides(tmp_path), *words])


def test_hosts_and_their_ranks():
    assert parse_hosts("a, b:4,[fd00::1]:2", slots=8) == (Host("a", 8), Host("b", 4), Host("fd00::1", 2))
    with pytest.raises(ValueError, match=r"got 'b:x' in 'a,b:x': write for example launcher.hosts=host1,host2"):
        parse_hosts("a,b:x", slots=8)


def test_a_hostfile(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("# two nodes\nworker-0 slots=8\n\nworker-1   slots=4  # half\n")
    assert read_hostfile(path) == (Host("worker-0", 8), Host("worker-1", 4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a slots=8\nb slot=8\n", r"but line 2 of .*hosts is 'b slot=8': write for example b slots=8\."),
        ("a\n", "but line 1 of .*hosts is 'a'"),
        ("a slots=0\n", "with 1 slot or more, but line 1 of"),
        ("a slots=8\na slots=4\n", "names each host once, but line 2 of .*hosts names a again"),
        ("# nobody\n", "has a line `host slots=8` for each host, and .*hosts has none"),
    ],
)
def test_a_hostfile_that_is_wrong(tmp_path, text, message):
    path = tmp_path / "hosts"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_hostfile(path)


def test_a_hostfile_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere cannot be read \(No such file or directory\): give the path of one"):
        composed(tmp_path, "launcher=torchrun", f"launcher.hostfile={tmp_path / 'nowhere'}")


def test_torchrun_on_each_host(tmp_path):
    config = composed(tmp_path, "launcher=torchrun", "launcher.hosts=a:2,b:1", "launcher.restarts=3")
    assert num_ranks(config.launcher) == 3
    first, second = (shlex.join(command(config, FOLDER, "d1", node=node)) for node in (0, 1))
    agent = f"{sys.executable} -m torch.distributed.run --nnodes=2"
    common = "--max-restarts=3 --rdzv-backend=c10d --rdzv-endpoint=a:29500 --rdzv-id=run"
    program = "-m ringattn.launch.worker /shared/run d1"
    assert first == f"{agent} --nproc-per-node=2 {common} --rdzv-conf=is_host=true --local-addr=a {program} 0"
    assert second == f"{agent} --nproc-per-node=1 {common} --rdzv-conf=is_host=false --local-addr=b {program} 2"


def test_deepspeeds_launcher_on_each_node(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("a slots=2\nb slots=1\n")
    config = composed(tmp_path, "launcher=deepspeed", f"launcher.hostfile={path}", "launcher.port=31000")
    assert shlex.join(command(config, FOLDER, "d1", node=1)) == (
        f"{sys.executable} -m deepspeed.launcher.runner --no_local_rank --no_ssh --node_rank=1 "
        "--hostfile=/shared/run/hostfile --master_addr=a --master_port=31000 --log_level=warning "
        "--module ringattn.launch.worker /shared/run d1"
    )
    write_hostfile(config, tmp_path)
    assert (tmp_path / "hostfile").read_text() == "a slots=2\nb slots=1\n"
    with pytest.raises(ValueError, match="but a is named 2 times: give each another name or address"):
        write_hostfile(composed(tmp_path, "launcher=deepspeed", "launcher.hosts=a,a"), tmp_path)


def test_restarts_on_this_machine(tmp_path, capsys):
    write_text(tmp_path / "text.txt")
    assert main(["train", *tiny_overrides(tmp_path), "launcher.restarts=2", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "command: TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 " in shown
    assert "--standalone --nproc-per-node=2 --max-restarts=2 -m ringattn.launch.worker" in shown


def test_a_dry_run_shows_the_command_of_each_host(tmp_path, capsys):
    write_text(tmp_path / "text.txt")
    words = ["launcher=torchrun", "launcher.hosts=a,b,c", "launcher.interface=eth1", "launcher.processes=2"]
    assert main(["train", *tiny_overrides(tmp_path), *words, "mesh.sequence_parallel=3", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "mesh: 2 data-parallel x 3 sequence-parallel = 6 ranks" in shown
    for node, name in enumerate("abc"):
        assert f"command on {name} (node {node}): GLOO_SOCKET_IFNAME=eth1 NCCL_SOCKET_IFNAME=eth1 " in shown
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_the_script_of_a_job(tmp_path):
    options = ["launcher.slurm.options='--exclusive --constraint=h100'", "launcher.slurm.setup='module load cuda'"]
    words = ["launcher=slurm", "launcher.slurm.nodes=2", "launcher.processes=8", "launcher.slurm.time=1-00:00:00"]
    words += ["launcher.slurm.partition=long", "launcher.slurm.gpus=8", "launcher.slurm.warn=120", "run.name=my run"]
    assert script(composed(tmp_path, *words, *options, "launcher.threads=4"), FOLDER, "d1") == (
        "#!/bin/bash\n"
        '#SBATCH --job-name="my run"\n'
        "#SBATCH --nodes=2\n"
        "#SBATCH --ntasks-per-node=1\n"
        "#SBATCH --cpus-per-task=32\n"
        "#SBATCH --gpus-per-node=8\n"
        "#SBATCH --time=1-00:00:00\n"
        "#SBATCH --partition=long\n"
        "#SBATCH --output=/shared/run/slurm-%j.log\n"
        "#SBATCH --open-mode=append\n"
        "#SBATCH --signal=USR1@120\n"
        "#SBATCH --requeue\n"
        "#SBATCH --exclusive\n"
        "#SBATCH --constraint=h100\n"
        "\n"
        "module load cuda\n"
        'echo "start $((${SLURM_RESTART_COUNT:-0} + 1)) of job $SLURM_JOB_ID on $SLURM_JOB_NODELIST"\n'
        "rm -f /shared/run/again\n"
        "srun --kill-on-bad-exit=1 ${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK} \\\n"
        f"    {sys.executable} -m ringattn.launch.slurm /shared/run d1\n"
        "code=$?\n"
        "if [ $code -eq 0 ] && [ -e /shared/run/again ]; then\n"
        "    # Saved before the time was over: the rest in another turn.\n"
        '    scontrol requeue "$SLURM_JOB_ID"\n'
        "fi\n"
        "exit $code\n"
    )


def test_a_script_is_written_and_not_submitted(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    write_text(tmp_path / "text.txt")
    words = [*tiny_overrides(tmp_path), "launcher=slurm"]
    assert main(["train", *words]) == 2
    assert "submits a job with sbatch, which is not on the PATH of this host" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(["train", *words, "launcher.submit=false"]) == 0
    place = tmp_path / "run" / "job.sh"
    assert capsys.readouterr().out == f"sbatch {place}\n"
    assert place.read_text().startswith("#!/bin/bash\n#SBATCH --job-name=demo\n#SBATCH --nodes=1\n")


def test_what_sbatch_refuses_is_said_in_its_words(tmp_path, capsys, monkeypatch):
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: x' >&2\nexit 1\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    write_text(tmp_path / "text.txt")
    assert main(["train", *tiny_overrides(tmp_path), "launcher=slurm"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "sbatch refused the job (sbatch: error: invalid partition specified: x): the run is frozen" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["launcher=torchrun"], "on hosts that it must know, and none is named: write launcher.hosts=host1,host2"),
        (["launcher.hosts=a,b"], "launcher.hosts is for several hosts, and launcher=local starts workers on this one"),
        (["launcher=slurm", "launcher.hosts=a"], "launcher.hosts is for several hosts, and launcher=slurm gets its"),
        (
            ["launcher=torchrun", "launcher.hosts=a,b", "launcher.node_rank=2"],
            "launcher.node_rank counts the hosts from 0 to 1, got 2 for 2 hosts",
        ),
        (["launcher=torchrun", "launcher.hosts=a", "launcher.port=80"], "1024 to 65535, got 80"),
        (["launcher.restarts=-1"], "launcher.restarts must be 0 or more, got -1"),
        (["launcher=slurm", "launcher.slurm.time=tomorrow"], "launcher.slurm.time is a limit as sbatch takes it"),
        (["launcher=torchrum"], "launcher must be one of deepspeed, local, slurm, torchrun, got 'torchrum'"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, words, message):
    with pytest.raises(ValueError) as refusal:
        composed(tmp_path, *words)
    assert message in str(refusal.value)


def test_both_hosts_and_a_hostfile(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("a slots=2\n")
    with pytest.raises(ValueError, match="both name the hosts, got both: write one of them"):
        composed(tmp_path, "launcher=torchrun", "launcher.hosts=a", f"launcher.hostfile={path}")


def test_deepspeed_is_not_installed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    words = ["launcher=deepspeed", "launcher.hosts=localhost"]
    assert main(["train", *tiny_overrides(tmp_path), *words]) == 2
    assert "launcher=deepspeed needs the package deepspeed, and it is not there" in capsys.readouterr().err


# ---- where this host is


def test_this_host_is_found_by_address_and_by_name():
    launcher = LauncherConfig(kind="torchrun", hosts="x")
    # 192.0.2.0/24 is for documentation: no host's.
    assert node_rank(launcher, (Host("192.0.2.77", 1), Host("127.0.0.1", 1))) == 1
    assert node_rank(launcher, (Host(socket.gethostname(), 1), Host("192.0.2.77", 1))) == 0
    with pytest.raises(ValueError, match=r"is not among launcher\.hosts \(192\.0\.2\.77\): start the run on those"):
        node_rank(launcher, (Host("192.0.2.77", 1),))
    with pytest.raises(ValueError, match=r"but places \[0, 1\] \(localhost, 127\.0\.0\.1\) are all this host"):
        node_rank(launcher, (Host("localhost", 1), Host("127.0.0.1", 1)))
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.77") is None


def test_a_port_is_held_by_somebody():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        assert f"by process {threading.get_native_id()} (" in holder(port)
        with pytest.raises(ValueError, match=rf"launcher\.port={port}, and that is in use on this host by process"):
            meet(guest(0, [Host("a", 1)], []), address="a", port=port, patience=1.0, prepare=lambda: (FOLDER, "d"))
    assert holder(port) == ""


# ---- the meeting


def meeting(*guests, prepare=lambda: (FOLDER, "d1"), patience=20.0):
    """What each host gets, in threads: a `Prepared` or a message."""
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    found = [None] * len(guests)

    def take_part(place, me):
        try:
            found[place] = meet(me, address="127.0.0.1", port=port, patience=patience, prepare=prepare)
        except ValueError as error:
            found[place] = str(error)

    threads = [threading.Thread(target=take_part, args=pair) for pair in enumerate(guests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return found


AB = (Host("a", 2), Host("b", 2))
ABC = (*AB, Host("c", 2))


def test_all_hosts_learn_the_run_folder():
    words = ["trainer.steps=3", "run.folder=x"]
    found = meeting(
        guest(1, ABC, [*reversed(words), "launcher.node_rank=1"]),
        guest(2, ABC, [*words, "launcher.interface=eth1"]),
        guest(0, ABC, words),
    )
    assert found == [Prepared(folder=FOLDER, digest="d1", own_address="127.0.0.1")] * 2 + [
        Prepared(folder=FOLDER, digest="d1", own_address=found[2].own_address)
    ]
    assert found[2].own_address.removeprefix("::ffff:") == "127.0.0.1"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (guest(1, ABC, []), "node 0 names 2 (a:2, b:2) and node 1 names 3 (a:2, b:2, c:2)"),
        (guest(1, AB, ["trainer.steps=5"]), "node 0 has nothing where node 1 has trainer.steps=5: type the same"),
    ],
)
def test_hosts_that_disagree_are_told_so_on_both(other, message):
    mine, theirs = meeting(guest(0, AB, []), other)
    assert message in mine
    assert theirs == mine


def test_two_hosts_in_one_place():
    found = meeting(guest(0, ABC, []), guest(1, ABC, []), guest(1, ABC, []))
    assert all("two say that they are node 1: give each its own launcher.node_rank" in each for each in found)


def test_a_mistake_of_node_0_is_known_everywhere():
    def prepare():
        raise ValueError("the text is too short")

    assert meeting(guest(0, AB, []), guest(1, AB, []), prepare=prepare) == ["the text is too short"] * 2


def test_a_host_that_does_not_come():
    (mine,) = meeting(guest(0, ABC, []), patience=0.5)
    assert "within launcher.patience=0.5 seconds, but node(s) 1 (b:2), 2 (c:2) did not come" in mine
    (theirs,) = meeting(guest(1, ABC, []), patience=0.5)
    assert "but it did not answer in launcher.patience=0.5 seconds (Connection refused)" in theirs


def test_whoever_else_knocks_is_sent_away():
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]

    def knock():
        for _ in range(100):
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
                    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
                break
            except OSError:
                continue
        meet(guest(1, AB, []), address="127.0.0.1", port=port, patience=20, prepare=lambda: (FOLDER, ""))

    thread = threading.Thread(target=knock)
    thread.start()
    found = meet(guest(0, AB, []), address="a", port=port, patience=20, prepare=lambda: (FOLDER, "d1"))
    thread.join(timeout=30)
    assert found.digest == "d1"
