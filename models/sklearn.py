"""Loads scikit-learn estimators from a joblib or a skops file.

    python -m runner model=sklearn model.path=s3://bucket/m.joblib
    python -m runner model=sklearn model.path=m.skops model.method=predict_proba 'model.output=[no,yes]'

A joblib file is a program; a skops file is data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from models._columns import frame, named
from models._files import Artifact, fetch, name_problems, readable, unreadable
from models._imports import not_installed, pickle_problems, refuse_pickle
from runner.types import Predictor

if TYPE_CHECKING:
    import numpy as np

Method = Literal["predict", "predict_proba", "decision_function", "transform"]


def load(
    path: str,
    method: Method = "predict",
    columns: list[str] | None = None,
    output: str | list[str] = "prediction",
    trusted: list[str] | None = None,
    storage_options: dict[str, Any] | None = None,
) -> Predictor:
    """Load a fitted estimator, or a pipeline, and return a predictor.

    **A joblib file executes code when it is read**, as any pickle does: use one only from where you would run
    a program from. A `.skops` file holds data, and names each type that is not known to be harmless, to be
    trusted one by one.

    The estimator runs on one thread of its own (whatever its `n_jobs`), since workers already run side by
    side; more workers, not more jobs, use more CPUs. Native thread pools follow `predict.num_threads`.

    Args:
        path: Local path or fsspec URI (`s3://anonymous@bucket/key` needs no credentials). `.skops` is read by
            skops, anything else (`.joblib`, `.pkl`, compressed or not) by joblib.
        method: The estimator's method to call.
        columns: Columns it is given, in this order. `None`: those it was fitted on, if it knows, else all.
        output: Name of the predictions' column: scalars where the method returns one value per row, else
            vectors (of `predict_proba`: in the order of `classes_`). A list of k names makes a column of
            scalars each.
        trusted: Types that a skops file may hold beyond the harmless ones.
        storage_options: fsspec's options for the path.

    Returns:
        A predictor over a DataFrame, an Arrow table, or a dict of arrays or tensors, which returns a dict of
        column name to NumPy array.

    Raises:
        ValueError: The file cannot be read, or holds types that `trusted` does not list, or nothing with such a method.
        FileNotFoundError: There is no such file.
    """
    estimator = _read(path, trusted, fetch(path, storage_options))
    if not callable(getattr(estimator, method, None)):
        raise ValueError(
            f"model.path={path} holds a {type(estimator).__name__}, which has no method model.method={method}"
        )
    return of(estimator, method, columns, output)


def load_problems(here: bool, path: str, trusted: list[str] | None = None, **_: Any) -> list[str]:
    """Return what is wrong with the arguments of `load`, without loading anything.

    Args:
        here: Whether this process will load the file, so that the packages must be installed here.
        path: As for `load`.
        trusted: As for `load`.
    """
    is_skops = path.endswith(".skops")
    absent = not_installed("sklearn", "sklearn", "joblib", *(["skops"] if is_skops else [])) if here else []
    is_program = not is_skops or bool(trusted)
    return [*(absent or name_problems("sklearn", path)), *(pickle_problems("model.path") if is_program else [])]


def of(
    estimator: Any,
    method: Method = "predict",
    columns: list[str] | None = None,
    output: str | list[str] = "prediction",
) -> SklearnPredictor:
    """Return a predictor of a fitted estimator; the arguments are those of `load`."""
    known: Sequence[str] | None = getattr(estimator, "feature_names_in_", None)
    wanted = columns if columns is not None or known is None else [str(name) for name in known]
    return SklearnPredictor(estimator, method, wanted, known is not None, output)


@dataclass(frozen=True)
class SklearnPredictor:
    """A fitted estimator and how to call it.

    Attributes:
        estimator: An object that has the method.
        method: Name of the method.
        columns: The columns that it is given, `None` for all.
        by_name: Whether it was fitted on named columns, so that it must be given a DataFrame.
        output: The name or names of the predictions.
    """

    estimator: Any
    method: str
    columns: list[str] | None
    by_name: bool
    output: str | list[str]

    def __call__(self, batch: Any) -> dict[str, np.ndarray[Any, Any]]:
        """Predict one batch."""
        import joblib

        rows = frame(batch, self.columns)
        given = rows if self.by_name else rows.to_numpy()
        with joblib.parallel_config(backend="sequential"):
            result = getattr(self.estimator, self.method)(given)
        return named(_dense(result), self.output)


def _dense(result: Any) -> np.ndarray[Any, Any]:
    import numpy as np

    if isinstance(result, list) and result and all(getattr(one, "ndim", 0) == 2 for one in result):
        raise ValueError(
            f"the estimator returned {len(result)} arrays, one for each of its targets; "
            "use model.method=predict, or a loader of your own that names them"
        )
    return np.asarray(result.toarray() if hasattr(result, "toarray") else result)


def _read(path: str, trusted: list[str] | None, artifact: Artifact) -> Any:
    if path.endswith(".skops"):
        return _read_skops(path, trusted or [], artifact)
    if trusted is not None:
        raise ValueError(
            f"model.trusted has no effect on model.path={path}: only .skops files name the types they hold"
        )
    import joblib

    refuse_pickle("model.path", path)
    try:
        return joblib.load(readable(artifact))
    except Exception as error:  # a damaged pickle may raise anything
        raise unreadable(path, artifact, "joblib", error) from error


def _read_skops(path: str, trusted: list[str], artifact: Artifact) -> Any:
    import skops.io

    if trusted:
        refuse_pickle("model.path", path)
    data = artifact if isinstance(artifact, bytes) else artifact.read_bytes()
    try:
        found = skops.io.get_untrusted_types(data=data)
    except Exception as error:
        raise unreadable(path, artifact, "skops", error) from error
    if unlisted := [name for name in found if name not in trusted]:
        raise ValueError(
            f"model.path={path} holds types that are not known to be harmless: {', '.join(unlisted)}. "
            f"If you trust them: 'model.trusted=[{','.join(sorted({*trusted, *unlisted}))}]'"
        )
    return skops.io.loads(data, trusted=trusted)
