"""A real Ray cluster of several nodes on this machine, held by a process of its own: `python cluster.py CPUS CPUS ...`.

Prints its address, then obeys lines on standard input: `kill` takes the last node down hard, `add CPUS` adds one; an end of
input ends the cluster.
"""

from __future__ import annotations

import sys

QUICK_DEATHS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 3,
}


def main(cpus: list[int]) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus[0], "_system_config": QUICK_DEATHS})
    nodes = [cluster.add_node(num_cpus=count) for count in cpus[1:]]
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    for line in sys.stdin:
        word, _, count = line.strip().partition(" ")
        if word == "kill":
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        elif word == "add":
            nodes.append(cluster.add_node(num_cpus=int(count)))
        print("done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main([int(count) for count in sys.argv[1:]])
