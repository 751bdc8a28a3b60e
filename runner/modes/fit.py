"""How many workers fit on the nodes of a cluster, by the resources that each asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runner.types import Fit, Resources

MIB = 1024**2
ONLY_RAY = (  # what nobody else hands out or follows
    "resources.num_gpus",
    "resources.memory",
    "resources.resources",
    "resources.accelerator_type",
    "resources.scheduling_strategy",
)


def demands(resources: Resources) -> dict[str, float]:
    """The resources of one worker under the names that Ray uses for those of a node."""
    asked = {
        "CPU": resources.num_cpus,
        "GPU": resources.num_gpus,
        "memory": float(resources.memory or 0),
        **resources.resources,
    }
    if resources.accelerator_type:
        asked[f"accelerator_type:{resources.accelerator_type}"] = 0.001  # as Ray itself asks for it
    return {name: amount for name, amount in asked.items() if amount > 0}


def fit(nodes: Sequence[Mapping[str, float]], resources: Resources) -> Fit:
    """How many workers that ask for `resources` fit on these nodes. A node is given as its resources by name."""
    asked = demands(resources)
    if not asked:
        cores = int(sum(node.get("CPU", 0) for node in nodes))
        return Fit(max(1, cores), "a worker asks for nothing: one per CPU")
    counts = [_fit_on(node, asked) for node in nodes]
    terms = [f"{name}: {_terms(name, nodes, amount)}" for name, amount in asked.items()]
    where = "on the one node" if len(nodes) == 1 else f"on {len(nodes)} nodes, counted on each"
    return Fit(sum(counts), f"{'; '.join(terms)} per worker, {where}")


def _fit_on(node: Mapping[str, float], asked: Mapping[str, float]) -> int:
    return min(int(node.get(name, 0) / amount + 1e-9) for name, amount in asked.items())


def _terms(name: str, nodes: Sequence[Mapping[str, float]], amount: float) -> str:
    there = sum(node.get(name, 0) for node in nodes)
    if name == "memory":
        return f"{there / MIB:,.0f} MiB / {amount / MIB:,.0f} MiB"
    return f"{there:g} / {amount:g}"
