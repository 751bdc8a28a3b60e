"""A real Ray cluster of several nodes on this machine, held by a process of its own: `python cluster.py NODE NODE ...`.

A node is its number of CPUs, and after a slash its number of logical GPUs: `4/1`. Prints the cluster's address, then obeys
lines on standard input: `kill` takes the last node down hard, `add NODE` adds one; an end of input ends the cluster.
"""

from __future__ import annotations

import sys

QUICK_DEATHS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 3,
}


def described(node: str) -> dict[str, int]:
    cpus, _, gpus = node.partition("/")
    return {"num_cpus": int(cpus), "num_gpus": int(gpus or 0)}


def main(head: str, *others: str) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**described(head), "_system_config": QUICK_DEATHS})
    nodes = [cluster.add_node(**described(node)) for node in others]
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    for line in sys.stdin:
        word, _, node = line.strip().partition(" ")
        if word == "kill":
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        elif word == "add":
            nodes.append(cluster.add_node(**described(node)))
        print("done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
