"""A model loader that checks its own arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.types import Predictor


def load(path: str, column: str = "a") -> Predictor:
    """A predictor that multiplies a column by the number in a file."""
    scale = float(Path(path).read_text())

    def predict(batch: Any) -> Any:
        return batch[column] * scale

    return predict


def load_problems(here: bool, path: str, **_: Any) -> list[str]:
    """What is wrong with these arguments, told before anything is loaded."""
    if not path.endswith(".txt"):
        return [f"model.path={path}: expected a file of one number, such as scale.txt"]
    return [f"model.path={path}: there is no such file"] if here and not Path(path).is_file() else []
