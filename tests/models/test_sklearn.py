from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import cloudpickle
import fsspec
import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import skops.io
import torch
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from models.sklearn import load
from runner.testing import check_loader
from runner.types import BatchKind

FRAME = pd.DataFrame({"a": [0.0, 1.0, 2.0, 3.0], "b": [1.0, 0.0, 1.0, 0.0], "note": list("wxyz")})
KINDS: dict[str, Any] = {
    "pandas": lambda frame: frame,
    "arrow": lambda frame: pa.Table.from_pandas(frame, preserve_index=False),
    "numpy": lambda frame: {name: frame[name].to_numpy() for name in frame},
    "torch": lambda frame: {name: torch.tensor(frame[name].to_numpy()) for name in frame if name != "note"},
}


class Threads(BaseEstimator):  # type: ignore[misc]
    """Says on how many threads its parallel part runs."""

    def fit(self, rows: Any, _: Any = None) -> Threads:
        self.n_features_in_ = rows.shape[1]
        return self

    def predict(self, rows: Any) -> Any:
        work = (joblib.delayed(threading.get_ident)() for _ in rows)
        return [len(set(joblib.Parallel(n_jobs=4, require="sharedmem")(work)))] * len(rows)


@pytest.fixture(scope="module")
def regression() -> LinearRegression:
    """Predicts 2a - b, fitted on named columns in the order b, a."""
    return LinearRegression().fit(FRAME[["b", "a"]], 2 * FRAME["a"] - FRAME["b"])


@pytest.fixture(scope="module")
def classifier() -> LogisticRegression:
    return LogisticRegression().fit(FRAME[["a", "b"]].to_numpy(), ["no", "no", "yes", "yes"])


def saved(estimator: Any, path: Path) -> str:
    (skops.io.dump if path.suffix == ".skops" else joblib.dump)(estimator, path)
    return str(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["m.joblib", "m.pkl", "m.skops", "m.joblib.gz"])
def test_every_file_and_batch_gives_the_same_predictions_also_after_pickling(
    name: str, kind: str, regression: Any, tmp_path: Path
) -> None:
    predictor = load(saved(regression, tmp_path / name))
    for one in (predictor, cloudpickle.loads(cloudpickle.dumps(predictor))):
        found = one(KINDS[kind](FRAME))
        assert list(found) == ["prediction"]
        np.testing.assert_allclose(found["prediction"], [-1, 2, 3, 6], atol=1e-12)


@pytest.mark.parametrize("suffix", [".joblib", ".skops"])
def test_a_file_may_lie_on_any_storage(suffix: str, regression: Any, tmp_path: Path) -> None:
    local = saved(regression, tmp_path / f"m{suffix}")
    fsspec.filesystem("memory").pipe_file(f"/estimators/m{suffix}", Path(local).read_bytes())
    predictor = load(f"memory://estimators/m{suffix}", storage_options={"skip_instance_cache": True})
    np.testing.assert_allclose(predictor(FRAME)["prediction"], [-1, 2, 3, 6], atol=1e-12)


def test_an_estimator_without_names_takes_the_given_columns_in_order(classifier: Any, tmp_path: Path) -> None:
    path = saved(classifier, tmp_path / "m.joblib")
    expected = classifier.predict(FRAME[["a", "b"]].to_numpy()).tolist()
    assert load(path, columns=["a", "b"])(FRAME)["prediction"].tolist() == expected
    assert load(path)(FRAME[["a", "b"]])["prediction"].tolist() == expected
    swapped = load(path, columns=["a", "b"], method="decision_function")(FRAME[["b", "a"]])
    np.testing.assert_array_equal(swapped["prediction"], classifier.decision_function(FRAME[["a", "b"]].to_numpy()))


def test_probabilities_are_one_vector_or_named_columns(classifier: Any, tmp_path: Path) -> None:
    path = saved(classifier, tmp_path / "m.joblib")
    expected = classifier.predict_proba(FRAME[["a", "b"]].to_numpy())
    vectors = load(path, "predict_proba", columns=["a", "b"], output="p")(FRAME)
    assert vectors["p"].tolist() == expected.tolist()
    columns = load(path, "predict_proba", columns=["a", "b"], output=["no", "yes"])(FRAME)
    assert {name: values.tolist() for name, values in columns.items()} == {
        "no": expected[:, 0].tolist(),
        "yes": expected[:, 1].tolist(),
    }
    with pytest.raises(ValueError, match=r"model\.output=\['no'\] names 1 columns, .* shape \[4, 2\]"):
        load(path, "predict_proba", columns=["a", "b"], output=["no"])(FRAME)


def test_a_sparse_transform_becomes_vectors(tmp_path: Path) -> None:
    path = saved(OneHotEncoder().fit(FRAME[["note"]]), tmp_path / "m.joblib")
    assert load(path, "transform")(FRAME)["prediction"].tolist() == np.eye(4).tolist()


def test_a_pipeline_knows_its_columns(tmp_path: Path) -> None:
    pipeline = make_pipeline(StandardScaler(), LinearRegression()).fit(FRAME[["b", "a"]], FRAME["a"])
    found = load(saved(pipeline, tmp_path / "m.skops"))(FRAME)["prediction"]
    np.testing.assert_allclose(found, FRAME["a"], atol=1e-12)


def test_whatever_its_n_jobs_an_estimator_runs_on_one_thread(tmp_path: Path) -> None:
    rows = pd.DataFrame({"a": np.arange(64.0)})
    pipeline = make_pipeline(FunctionTransformer(), Threads()).fit(rows.to_numpy())
    assert load(saved(pipeline, tmp_path / "m.joblib"))(rows)["prediction"].tolist() == [1] * 64
    forest = RandomForestClassifier(n_estimators=3, n_jobs=2, random_state=0).fit(FRAME[["a", "b"]], list("xxyy"))
    predictor: Any = load(saved(forest, tmp_path / "f.joblib"))
    assert predictor(FRAME)["prediction"].tolist() == list("xxyy")
    assert predictor.estimator.n_jobs == 2


def test_a_missing_column_is_named(regression: Any, tmp_path: Path) -> None:
    path = saved(regression, tmp_path / "m.joblib")
    for batch in (
        FRAME[["a", "note"]],
        KINDS["arrow"](FRAME[["a", "note"]]),
        KINDS["numpy"](FRAME[["a", "note"]]),
    ):
        with pytest.raises(ValueError, match=r"missing  'b'\n  extra    'note'"):
            load(path)(batch)


def test_types_that_a_skops_file_needs_trusted_are_listed(tmp_path: Path) -> None:
    path = saved(FunctionTransformer(np.exp).fit(FRAME[["a"]]), tmp_path / "m.skops")
    unknown = skops.io.get_untrusted_types(file=path)
    if not unknown:
        path = saved(Threads().fit(FRAME[["a"]].to_numpy()), tmp_path / "m.skops")
        unknown = skops.io.get_untrusted_types(file=path)
    with pytest.raises(ValueError, match=r"m\.skops holds types that are not known to be harmless") as refused:
        load(path, "transform")
    assert all(name in str(refused.value) for name in unknown)
    assert f"'model.trusted=[{','.join(sorted(unknown))}]'" in str(refused.value)


def test_trusted_types_load(tmp_path: Path) -> None:
    path = saved(Threads().fit(FRAME[["a"]].to_numpy()), tmp_path / "m.skops")
    unknown = skops.io.get_untrusted_types(file=path)
    assert unknown == [f"{__name__}.Threads"]
    assert load(path, columns=["a"], trusted=unknown)(FRAME)["prediction"].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("estimator", "arguments", "message"),
    [
        (
            LinearRegression(),
            {"method": "predict_proba"},
            r"LinearRegression, which has no method model\.method=pred",
        ),
        ({"not": "an estimator"}, {}, r"m\.joblib holds a dict, which has no method model\.method=predict"),
        (
            LinearRegression(),
            {"trusted": ["x.Y"]},
            r"model\.trusted has no effect on model\.path=.*m\.joblib",
        ),
    ],
)
def test_arguments_that_cannot_be_right(estimator: Any, arguments: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load(saved(estimator, tmp_path / "m.joblib"), **arguments)


def test_probabilities_of_several_targets_are_refused(tmp_path: Path) -> None:
    targets = np.array([[0, 1], [0, 1], [1, 0], [1, 0]])
    several = MultiOutputClassifier(LogisticRegression()).fit(FRAME[["a", "b"]], targets)
    path = saved(several, tmp_path / "m.joblib")
    assert load(path)(FRAME)["prediction"].shape == (4, 2)
    with pytest.raises(ValueError, match=r"returned 2 arrays, one for each of its targets; use model\.method=predict"):
        load(path, "predict_proba")(FRAME)


@pytest.mark.parametrize("uri", ["nowhere/m.joblib", "memory://nowhere/m.skops"])
def test_a_file_that_is_not_there_is_named_by_its_key(uri: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"model.path={uri}: there is no such file"):
        load(uri)


@pytest.mark.parametrize("kind", ["pandas", "arrow", "numpy"])
@pytest.mark.parametrize("method", ["predict", "predict_proba"])
def test_it_keeps_the_promises_of_a_loader(
    classifier: LogisticRegression, tmp_path: Path, kind: BatchKind, method: Any
) -> None:
    path = saved(classifier, tmp_path / "m.joblib")
    check_loader(lambda: load(path, method=method, columns=["a", "b"]), FRAME[["a", "b"]], kind=kind)
