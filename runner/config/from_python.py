"""A model that was given in Python, as a loader."""

from __future__ import annotations

import functools
import inspect
from typing import Any, cast

from runner.errors import ConfigError
from runner.fingerprint.ingredients import of_predictor
from runner.types import Loader, Predictor


def loader_of(model: Any) -> Loader:
    """The loader of a predictor or an estimator.

    Raises:
        ConfigError: It is neither.
    """
    predictor = _predictor(model)
    name = f"{getattr(model, '__module__', '')}.{getattr(model, '__qualname__', type(model).__qualname__)}"
    return Loader(functools.partial(_itself, predictor), name, {}, of_predictor(predictor))


def _predictor(model: Any) -> Predictor:
    if inspect.isclass(model):
        name = model.__qualname__
        raise ConfigError(
            f"model={name}: is a class; give an instance, such as model={name}(...), or let each job make one: "
            f"{{'model._target_': '{model.__module__}.{name}'}}"
        )
    if callable(model):
        return cast("Predictor", model)
    if not callable(getattr(model, "predict", None)):
        raise ConfigError(f"model={model!r:.60}: expected a function of a batch, or an estimator, which has predict")
    from models.sklearn import of

    return of(model)


def _itself(predictor: Predictor) -> Predictor:
    return predictor
