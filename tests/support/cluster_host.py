"""A Ray cluster of several local nodes in its own process, so that a test can kill its nodes.

Prints its address, then reads commands from stdin, `add NAME` and `kill NAME`, and answers each with a line.
"""

import sys

from ray.cluster_utils import Cluster

# Sets Ray's environment variables, which the processes of the nodes inherit.
import cyclesep.cluster  # noqa: F401

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
                # SIGKILL to the raylet; its workers end with it.
                cluster.remove_node(nodes.pop(name), allow_graceful=False)
            print(f"{verb} {name}: done", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
