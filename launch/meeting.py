"""The hosts of a run meet before it starts: node 0 waits for the others, checks that all were told the same, prepares
the run folder, and tells them which one it is.

One connection from each host, one line of JSON each way. A mistake is said on every host, before any worker has
started.
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ringattn.launch.place import holder

from ringattn.settings.hosts import Host

# Each host has its own.
OF_ONE_HOST = ("launcher.node_rank", "launcher.interface", "launcher.hostfile", "launcher.hosts")
PREPARATION_SECONDS = 1800.0  # A large text takes a while to tokenize.
_RETRY_SECONDS = 0.3
_LINE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Guest:
    """What a host says of itself. words: the overrides that it was given; attempt: 0, 1, ... of starting the run."""

    node_rank: int
    hosts: list[str]
    words: list[str]
    attempt: int = 0
    ringattn: str = "meeting"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What all hosts start from. own_address: this host's address as the others see it; None where it is alone."""

    folder: Path
    digest: str
    own_address: str | None


def guest(node: int, hosts: Sequence[Host], overrides: Sequence[str], *, attempt: int = 0) -> Guest:
    """This host's own words."""
    words = sorted(word for word in overrides if word.partition("=")[0] not in OF_ONE_HOST)
    return Guest(node_rank=node, hosts=[str(host) for host in hosts], words=words, attempt=attempt)


def meet(me: Guest, *, address: str, port: int, patience: float, prepare: Callable[[], tuple[Path, str]]) -> Prepared:
    """Meet the other hosts at `address` (of node 0) and `port`; `prepare` makes the run folder, on node 0.

    Raises:
        ValueError: the port is taken, a host does not come in `patience` seconds or was told something else, or
            preparing failed; on every host that has come.
    """
    if me.node_rank == 0:
        return _receive(me, port=port, patience=patience, prepare=prepare)
    return _call(me, address=address, port=port, patience=patience)


def _receive(me: Guest, *, port: int, patience: float, prepare: Callable[[], tuple[Path, str]]) -> Prepared:
    with contextlib.ExitStack() as stack:
        door = stack.enter_context(_listen(port, patience=5.0 if me.attempt else 0.0))
        present: dict[int, socket.socket] = {}
        end = time.monotonic() + patience
        try:
            while len(present) < len(me.hosts) - 1:
                missing = [f"{n} ({me.hosts[n]})" for n in range(1, len(me.hosts)) if n not in present]
                arrived = _arrival(door, end)
                if arrived is None:
                    raise ValueError(
                        f"every host starts the run within launcher.patience={patience:g} seconds, but node(s) "
                        f"{', '.join(missing)} did not come to port {port}: type the same command there."
                    )
                connection, other = arrived
                stack.enter_context(connection)
                fault = _disagreement(me, other, present)
                if fault:
                    present.setdefault(-1, connection)
                    raise ValueError(fault)
                present[other.node_rank] = connection
            folder, digest = prepare()
        except ValueError as error:
            _tell(present.values(), {"error": str(error)})
            raise
        own = next(iter(present.values())).getsockname()[0] if present else None
        _tell(present.values(), {"folder": str(folder), "digest": digest})
    return Prepared(folder=folder, digest=digest, own_address=own)


def _listen(port: int, *, patience: float) -> socket.socket:
    end = time.monotonic() + patience
    while True:
        try:
            return socket.create_server(("", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ValueError(f"node 0 cannot listen at launcher.port={port} ({error.strerror}).") from None
            if time.monotonic() > end:
                raise ValueError(
                    f"node 0 waits for the other hosts at launcher.port={port}, and that is in use on this host"
                    f"{holder(port)}: end that, or write launcher.port={port + 1} on every host."
                ) from None
            time.sleep(_RETRY_SECONDS)


def _arrival(door: socket.socket, end: float) -> tuple[socket.socket, Guest] | None:
    """The next host that comes, or None at the end. Whoever else knocks is sent away."""
    while (left := end - time.monotonic()) > 0:
        door.settimeout(min(left, 1.0))
        try:
            connection, _ = door.accept()
        except TimeoutError:
            continue
        connection.settimeout(10.0)
        try:
            return connection, Guest(**_line(connection))
        except (OSError, ValueError, TypeError):
            connection.close()
    return None


def _disagreement(me: Guest, other: Guest, present: dict[int, socket.socket]) -> str:
    if other.hosts != me.hosts:
        mine, theirs = (f"{len(g.hosts)} ({', '.join(g.hosts)})" for g in (me, other))
        return (
            f"all hosts must name the same hosts in the same order, but node 0 names {mine} and node "
            f"{other.node_rank} names {theirs}: give all of them the same launcher.hosts or hostfile."
        )
    if other.node_rank in present or other.node_rank == 0:
        return (
            f"each host has a place of its own, but two say that they are node {other.node_rank}: give each its own "
            "launcher.node_rank."
        )
    if other.words != me.words:
        only_here, only_there = (
            " ".join(sorted(set(one.words) - set(another.words))) or "nothing"
            for one, another in ((me, other), (other, me))
        )
        return (
            f"all hosts are given the same settings, but node 0 has {only_here} where node {other.node_rank} has "
            f"{only_there}: type the same command on each."
        )
    if other.attempt != me.attempt:
        return (
            f"all hosts start together, but node 0 starts for the {me.attempt + 1}. time and node {other.node_rank} "
            f"for the {other.attempt + 1}.: end both, and start again with run.resume=auto."
        )
    return ""


def _call(me: Guest, *, address: str, port: int, patience: float) -> Prepared:
    end = time.monotonic() + patience
    told = False
    while True:
        try:
            connection = socket.create_connection((address, port), timeout=5.0)
            break
        except OSError as error:
            if time.monotonic() > end:
                raise ValueError(
                    f"node 0 is at {address}, port {port}, but it did not answer in launcher.patience={patience:g} "
                    f"seconds ({error.strerror or error}): type the same command there, and look that the port is open."
                ) from None
            if not told:
                print(f"waiting for node 0 at {address}:{port}", file=sys.stderr, flush=True)
                told = True
            time.sleep(_RETRY_SECONDS)
    with connection:
        connection.settimeout(PREPARATION_SECONDS + patience)
        try:
            connection.sendall(json.dumps(asdict(me)).encode() + b"\n")
            answer = _line(connection)
        except (OSError, ValueError):
            raise ValueError(
                f"node 0 at {address}, port {port}, left without an answer: it says why, unless another program, or a "
                "run that has started without this host, is at that port."
            ) from None
        own = connection.getsockname()[0]
    if "error" in answer:
        raise ValueError(answer["error"])
    return Prepared(folder=Path(answer["folder"]), digest=answer["digest"], own_address=own)


def _tell(connections: Any, answer: dict[str, str]) -> None:
    """Answer each host and wait until it has hung up: the side that closes first keeps the port for a while."""
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps(answer).encode() + b"\n")
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.settimeout(5.0)
            connection.recv(1)


def _line(connection: socket.socket) -> Any:
    received = b""
    while not received.endswith(b"\n"):
        piece = connection.recv(65536)
        if not piece or len(received) > _LINE:
            raise ValueError("no whole line")
        received += piece
    return json.loads(received)
