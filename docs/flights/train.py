"""A model of which flights arrive more than 15 minutes late, by what is known when the ticket is bought.

python train.py data late.joblib        learns from January to June, tells how well it does on the months after
"""

from __future__ import annotations

import sys
from pathlib import Path

import joblib
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OrdinalEncoder

NAMES = ["carrier", "origin", "dest"]
NUMBERS = ["sched_dep_time", "sched_arr_time", "distance", "day"]
LATE = 15  # minutes


def model() -> Pipeline:
    """Boosted trees over names, each as a number of its own, and numbers."""
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = make_column_transformer((encoder, NAMES), ("passthrough", NUMBERS), verbose_feature_names_out=False)
    trees = HistGradientBoostingClassifier(
        categorical_features=list(range(len(NAMES))), max_iter=300, early_stopping=False, random_state=0
    )
    return make_pipeline(columns, trees)


def arrived(folder: Path) -> pd.DataFrame:
    """The flights that arrived at all."""
    return pd.read_parquet(folder).dropna(subset="arr_delay").astype({"month": int})


def main(folder: str, path: str) -> None:
    """Train on half of the year, test on the rest, save."""
    table = arrived(Path(folder))
    late = table["arr_delay"] > LATE
    first = table["month"] <= 6
    features = table[[*NAMES, *NUMBERS]]
    trained = model().fit(features[first], late[first])
    scores = trained.predict_proba(features[~first])[:, 1]
    print(
        f"trained on {first.sum():,} flights, AUC {roc_auc_score(late[~first], scores):.2f} on {(~first).sum():,} others"
    )
    joblib.dump(trained, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
