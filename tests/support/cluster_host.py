"""A Ray cluster of several nodes on this machine, in a process of its own, so that a test may kill its nodes.

Prints its address, then obeys lines on stdin, `add NAME` and `kill NAME`, answering each with a line; ends with stdin.
"""

import sys

from ray.cluster_utils import Cluster

# Sets Ray's environment before Ray is import_object.
from cyclesep.cluster.connect import ray  # noqa: F401

STORE_BYTES = 100 * 2**20
NODE = {"num_cpus": 1, "object_store_memory": STORE_BYTES}


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    nodes = {}
    print(cluster.address, flush=True)
    try:
        for line in sys.stdin:
            verb, name = line.split()
            if verb == "add":
                nodes[name] = cluster.add_node(**NODE)
            else:
                # SIGKILL of the raylet; its workers go with it.
                cluster.remove_node(nodes.pop(name), allow_graceful=False)
            print(f"{verb} {name}: done", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
