"""A Ray cluster of two nodes with one CPU each on 127.0.0.1, the second of which leaves for good when it is told to.

``python -m helpers.ray_two_nodes`` prints the cluster's address, and ends the second node at the first line that it
reads. It ends when its standard input is closed.
"""

from __future__ import annotations

import importlib
import sys

from glomedge.system import telemetry

_OBJECTS_BYTES = 200 << 20


def main() -> None:
    """Start, tell, obey."""
    ray = telemetry.import_ray()
    cluster_utils = importlib.import_module(f"{ray.__name__}.cluster_utils")
    how = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": _OBJECTS_BYTES}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={**how, "include_dashboard": False})
    leaves = cluster.add_node(**how)
    try:
        print(cluster.address, flush=True)
        if sys.stdin.readline():
            cluster.remove_node(leaves, allow_graceful=False)
            print("left", flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
