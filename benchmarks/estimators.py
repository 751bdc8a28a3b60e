"""What sharing a scikit-learn estimator saves: its packed size, and the private memory of a process that maps it and predicts.

python benchmarks/estimators.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPRegressor
from sklearn.svm import SVC

from runner.predictor import weights
from runner.predictor.vitals import private_bytes
from runner.words.plain import size

ROWS = 100  # that are predicted
RNG = np.random.default_rng(0)


def numbers(rows: int, columns: int, classes: int) -> tuple[Any, Any]:
    """Random features, and as many classes as wanted."""
    return RNG.random((rows, columns)), np.arange(rows) % classes


ESTIMATORS: dict[str, Callable[[], Any]] = {
    "LogisticRegression, 200 classes, 20,000 features": lambda: LogisticRegression(max_iter=1).fit(
        *numbers(400, 20_000, 200)
    ),
    "KMeans, 1,000 centres, 4,000 features": lambda: KMeans(1000, max_iter=1, n_init=1, init="random").fit(
        numbers(1000, 4000, 2)[0]
    ),
    "KNeighborsClassifier, brute force": lambda: KNeighborsClassifier(algorithm="brute").fit(*numbers(40_000, 200, 9)),
    "KNeighborsClassifier, k-d tree": lambda: KNeighborsClassifier(algorithm="kd_tree").fit(*numbers(40_000, 50, 9)),
    "MLPRegressor, two layers of 2,000": lambda: MLPRegressor(hidden_layer_sizes=(2000, 2000), max_iter=1).fit(
        *numbers(200, 50, 9)
    ),
    "SVC, 6,000 rows of 200 features": lambda: SVC().fit(*numbers(6000, 200, 2)),
    "HistGradientBoostingRegressor, 300 trees of 255 leaves": lambda: HistGradientBoostingRegressor(
        max_iter=300, max_leaf_nodes=255, early_stopping=False
    ).fit(*numbers(20_000, 20, 9)),
    "RandomForestRegressor, 100 trees": lambda: RandomForestRegressor(100).fit(*numbers(20_000, 20, 20_000)),
}


def took(estimator: Any) -> int:
    """Private bytes that another process needs for it."""
    with tempfile.TemporaryFile() as file:
        weights.save(weights.pack(estimator), file)
        child = [sys.executable, __file__, str(file.fileno()), str(estimator.n_features_in_)]
        return int(subprocess.run(child, pass_fds=[file.fileno()], check=True, stdout=subprocess.PIPE).stdout)


def bear(number: int, columns: int) -> int:
    """Map an estimator, predict twice (libraries set themselves up at the first), and tell what private memory has grown by."""
    rows = np.zeros((ROWS, columns))
    LogisticRegression().fit(rows[:2, :1], [0, 1]).predict(rows[:, :1])
    before = private_bytes() or 0
    estimator = weights.load(number).unpack()
    for _ in range(2):
        estimator.predict(rows)
    return (private_bytes() or 0) - before


def main() -> None:
    """Print the table."""
    print("| estimator | packed | private memory it took |", "|---|---|---|", sep="\n")
    for name, make in ESTIMATORS.items():
        estimator = make()
        print(f"| {name} | {size(weights.pack(estimator).size)} | {size(took(estimator))} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(bear(int(sys.argv[1]), int(sys.argv[2])))
    else:
        main()
