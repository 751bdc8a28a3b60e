"""What a loader or predictor is made of: the code that it runs, and the values that this uses."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runner.config.targets import locate
from runner.fingerprint.ingredients import of_loader, of_predictor


def scaled(factor: float) -> Callable[[Any], Any]:
    return lambda batch: batch * factor


class Model:
    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, batch: Any) -> Any:
        return batch * self.weight


def times(batch: Any, factor: float) -> Any:
    return batch * factor


@pytest.mark.parametrize(
    "make", [scaled, Model, lambda factor: Model(factor).__call__, lambda factor: partial(times, factor=factor)]
)
def test_the_of_predictor_a_predictor_counts(make: Callable[[float], Callable[[Any], Any]]) -> None:
    assert of_predictor(make(1.0)) == of_predictor(make(1.0))
    assert of_predictor(make(1.0)) != of_predictor(make(2.0))


FILES = {
    "churn.py": '"""Doc."""\nimport helper\ndef load(add=0):\n    return lambda batch: helper.times(batch["x"]) + add\n',
    "helper.py": "from typing import TYPE_CHECKING\nfrom parts import rules\nif TYPE_CHECKING:\n    import numpy\n"
    "SCALE = 2\ndef times(x):\n    return x * SCALE * rules.BASE\n",
    "parts/__init__.py": "",
    "parts/rules.py": "from . import deeper\nBASE = deeper.ONE\n",
    "parts/deeper.py": "ONE = 1\n",
    "parts/unused.py": "ONE = 1\n",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules of the user's own, that nothing has imported yet."""
    (tmp_path / "parts").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    for name in ("churn", "helper", "parts", "parts.rules", "parts.deeper", "parts.unused"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return tmp_path


def made(**arguments: Any) -> dict[str, str]:
    return of_loader(locate("churn.load"), "churn.load", arguments)


def changed(place: Path, name: str, old: str, new: str) -> set[str]:
    """What differs after a change of a file."""
    before = made()
    text = (place / name).read_text()
    assert old in text
    (place / name).write_text(text.replace(old, new))
    after = made()
    return {each for each in before | after if before.get(each) != after.get(each)}


def test_a_loader_is_made_of_all_modules_that_it_imports(place: Path) -> None:
    assert list(made()) == ["churn", "helper", "parts.deeper", "parts.rules"]
    assert "numpy" not in made()
    assert list(made(module="parts.unused.Net"))[-1] == "parts.unused", "named by an argument"
    assert place.is_dir()


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("helper.py", "SCALE = 2", "SCALE = 3", {"helper"}),
        ("parts/deeper.py", "ONE = 1", "ONE = 2", {"parts.deeper"}),
        ("parts/__init__.py", "", "import parts.unused", {"parts", "parts.unused"}),
        ("churn.py", "import helper", "def load2(): import parts.unused\nimport helper", {"churn", "parts.unused"}),
        ("churn.py", "import helper", "import helper # note", set()),
        ("churn.py", "Doc.", "Other words.", set()),
        ("churn.py", "(add=0)", "( add = 0 )", set()),
        ("helper.py", "def times(x):", 'def times(x):\n    """Says."""', set()),
        ("helper.py", "import numpy", "import parts.unused", set()),
        ("parts/unused.py", "ONE = 1", "ONE = 2", set()),
    ],
    ids=range(10),
)
def test_code_counts_and_words_do_not(place: Path, name: str, old: str, new: str, expected: set[str]) -> None:
    assert changed(place, name, old, new) == expected


def test_a_value_that_a_module_loads_counts(place: Path) -> None:
    (place / "churn.py").write_text(
        "import numpy as np\nWEIGHTS = np.load('w.npy')\nFOLDER = __file__\n"
        "def load():\n    return lambda batch: batch['x'] * WEIGHTS[0] if FOLDER else 0\n"
    )
    import numpy as np

    found = []
    for weight in (1.0, 1.0, 2.0):
        np.save("w.npy", np.array([weight]))
        sys.modules.pop("churn", None)
        found.append(made())
    assert list(found[0]) == ["churn", "churn.WEIGHTS"]
    assert found[0] == found[1] != found[2]


def test_the_loader_of_an_installed_package_counts_with_its_version() -> None:
    found = of_loader(locate("sklearn.dummy.DummyClassifier"), "sklearn.dummy.DummyClassifier", {})
    assert list(found) == ["sklearn.dummy", "scikit-learn"]


def test_nothing_is_imported_to_find_out() -> None:
    code = (
        "from runner.fingerprint.ingredients import of_loader\nimport models.torch, models.sklearn, sys\n"
        "for m in (models.torch, models.sklearn): print(sorted(of_loader(m.load, m.__name__ + '.load', {})))\n"
        "assert not {'torch', 'sklearn', 'numpy', 'pandas'} & set(sys.modules)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert "models._columns" in told


HOLDING: list[Callable[[float], Any]] = [
    lambda factor: [lambda batch: batch["a"] * 2, lambda batch: batch["a"] * 3][int(factor)],
    lambda factor: [lambda batch: batch["a"], lambda batch: batch["b"]][int(factor)],
    lambda factor: [lambda b: [x * 2 for x in b], lambda b: [x * 3 for x in b]][int(factor)],
    lambda factor: [lambda b: b in {"x", "y"}, lambda b: b in {"x", "z"}][int(factor)],
    lambda factor: partial(lambda batch, by: batch * by, by=factor),
    lambda factor: Holder(lambda batch: batch * factor),
    lambda factor: Holder(lambda batch: batch * factor).__call__,
    lambda factor: Holder({"one": [lambda batch: batch * factor]}),
]


class Holder:
    def __init__(self, held: Any) -> None:
        self.held, self.itself = held, self

    def __call__(self, batch: Any) -> Any:
        return self.held(batch)


@pytest.mark.parametrize("make", HOLDING, ids=range(len(HOLDING)))
def test_functions_of_one_file_differ_by_their_code(make: Callable[[float], Any]) -> None:
    assert of_predictor(make(0)) == of_predictor(make(0))
    assert of_predictor(make(0)) != of_predictor(make(1))


ROOT = Path(__file__).parents[2]
NOTEBOOK = """
import logging, threading
import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
import local
from runner.fingerprint.ingredients import of_predictor

x = np.arange(40.0).reshape(20, 2)
clf = make_pipeline(FunctionTransformer(lambda a: a * 2), LogisticRegression()).fit(x, x[:, 0] > FITTED)
forest = RandomForestClassifier(3, random_state=0).fit(x, x[:, 0] > 9)
table = pd.DataFrame({"k": ["a", "b"], "v": [1, 2]})
words = {"p", "q", "r", None}
threshold = THRESHOLD
lock, log, rng, calls, cache, seen = threading.Lock(), logging.getLogger("x"), np.random.default_rng(), 0, {}, []

class Scaled:
    "DOC"
    def __init__(self): self.lock, self.by = threading.Lock(), {"by": 2}
    def __call__(self, x): return above(x) * self.by["by"]

scaled = Scaled()

def above(x):
    "DOC"
    # COMMENT
    return x > threshold

def predict(batch):
    global calls
    calls += 1
    cache[len(batch)] = 1
    seen.append(len(batch))
    log.info("x")
    with lock:
        return [above(p) for p in clf.predict(batch)], forest, table, words, scaled, rng, local.scale(1)

def told(): return "\\n".join(f"{name} {digest}" for name, digest in of_predictor(predict).items())

if __name__ == "__main__":
    first = told()
    print(first)
    calls, cache[1], _, _ = 7, 2, seen.append(3), rng.normal()
    assert told() == first
"""


def ingredients(folder: Path, seed: str, local: str = "def scale(x): return x", **values: str) -> dict[str, str]:
    """What a notebook's predictor is made of, in a process of its own."""
    text = NOTEBOOK
    for name, value in {"FITTED": "9", "THRESHOLD": "0.5", "DOC": "Doc.", "COMMENT": "x", **values}.items():
        text = text.replace(name, value)
    folder.mkdir(exist_ok=True)
    (folder / "notebook.py").write_text(text)
    (folder / "local.py").write_text(local)
    env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "notebook.py"]
    told = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True).stdout
    return dict(line.rsplit(" ", 1) for line in told.splitlines())


@pytest.mark.slow
def test_the_notebooks_way(tmp_path: Path) -> None:
    """Globals that a function names count by value, the same in every process; words, counters and handles do not."""
    first = ingredients(tmp_path / "one", "1")
    assert {"__main__.clf", "__main__.above", "__main__.threshold", "__main__.table", "local"} <= first.keys()
    assert not {"__main__.calls", "__main__.cache", "__main__.seen"} & first.keys()
    for name, values in {
        "": {"DOC": "Another.", "COMMENT": "y"},
        "__main__.clf": {"FITTED": "19"},
        "__main__.threshold": {"THRESHOLD": "0.6"},
        "local": {"local": "def scale(x): return x * 2"},
    }.items():
        other = ingredients(tmp_path / "another", "2", **values)
        assert other.keys() == first.keys()
        assert {each for each in first if first[each] != other[each]} == ({name} if name else set())
