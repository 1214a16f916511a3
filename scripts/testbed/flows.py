"""What links really carry: TCP flows between hosts, counted where they arrive.

One process a host plays its ends of all flows. Hosts on one machine share its clock, so all count the same window of
time: what arrives before it, while windows open and buffers fill, is not counted.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testbed.bed import Testbed

_PORT = 20000
_WARM_UP_SECONDS = 0.7  # interpreters that start, connections that open, queues that fill
_CHUNK = bytes(1 << 16)


def measure(bed: Testbed, flows: Sequence[tuple[int, int]], *, seconds: float = 1.0) -> list[float]:
    """Bytes/s that each flow (from host, to host) brought its reader, with all of them at once.

    Raises:
        RuntimeError: a flow that did not come about.
    """
    from testbed.topology import address

    begin = time.monotonic() + _WARM_UP_SECONDS
    plan = {
        "begin": begin,
        "end": begin + seconds,
        "flows": [
            {"from": source, "to": target, "address": address(target), "port": _PORT + number}
            for number, (source, target) in enumerate(flows)
        ],
    }
    hosts = sorted({host for flow in flows for host in flow})
    agents = [
        bed.start(host, [sys.executable, "-E", "-S", __file__, str(host), json.dumps(plan)], output=subprocess.PIPE)
        for host in hosts
    ]
    rates: dict[int, float] = {}
    said = []
    for agent in agents:
        output = agent.communicate(timeout=seconds + 30)[0].decode()
        said.append(output)
        if agent.returncode == 0:
            rates |= {int(number): rate for number, rate in json.loads(output).items()}
    if len(rates) != len(flows):
        raise RuntimeError(f"flows {sorted(set(range(len(flows))) - set(rates))} were not measured: {''.join(said)}")
    return [rates[number] for number in range(len(flows))]


def _play(host: int, plan: dict[str, Any]) -> dict[int, float]:
    """The ends of flows that are on one host; the rates of those that arrive here."""
    rates: dict[int, float] = {}
    threads = []
    for number, flow in enumerate(plan["flows"]):
        if flow["to"] == host:
            listener = socket.create_server((flow["address"], flow["port"]))
            threads.append(threading.Thread(target=_receive, args=(listener, number, plan, rates)))
        if flow["from"] == host:
            threads.append(threading.Thread(target=_send, args=(flow, plan)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return rates


def _receive(listener: socket.socket, number: int, plan: dict[str, Any], rates: dict[int, float]) -> None:
    listener.settimeout(10)
    connection = listener.accept()[0]
    buffer = bytearray(len(_CHUNK))
    counted = 0
    while size := connection.recv_into(buffer):
        now = time.monotonic()
        if now > plan["end"]:
            rates[number] = counted / (plan["end"] - plan["begin"])
            break
        if now >= plan["begin"]:
            counted += size
    # The sender stops when it finds nobody there.
    connection.close()


def _send(flow: dict[str, Any], plan: dict[str, Any]) -> None:
    while True:
        try:
            connection = socket.create_connection((flow["address"], flow["port"]), timeout=10)
            break
        except ConnectionRefusedError:
            if time.monotonic() > plan["end"]:
                return
            time.sleep(0.01)
    try:
        while time.monotonic() < plan["end"] + 1.0:
            connection.sendall(_CHUNK)
    except OSError:
        pass  # the reader has what it wanted


if __name__ == "__main__":
    print(json.dumps(_play(int(sys.argv[1]), json.loads(sys.argv[2]))))
