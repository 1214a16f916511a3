"""Real hosts and shaped links on one machine, as a library. Used with `scripts/` on the path:

with Testbed(Topology.mesh(4, rate=25e6)) as bed:
    outcome = bed.run(["python", "my_script.py"])
"""

from testbed.bed import Outcome, Testbed
from testbed.network import clean, obstacle
from testbed.topology import Kind, Link, Topology, parse_rate

__all__ = ["Kind", "Link", "Outcome", "Testbed", "Topology", "clean", "obstacle", "parse_rate"]
