"""The documentation does what it says: commands run, links lead somewhere, every key of the config is explained."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pyarrow.dataset as ds
import pytest
import ray
import yaml
from outside import shared

from runner.config.options import CONF, options

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])

# ---------------------------------------------------------------- the worked example


@dataclass(frozen=True)
class Step:
    """A console block of a page.

    Attributes:
        page: Its file below `docs/`.
        line: Where it stands.
        code: What is run.
        exit_code: What the page says it ends with.
        output: The lines that the page shows.
    """

    page: str
    line: int
    code: str
    exit_code: int
    output: list[str]


BLOCK = re.compile(
    r"^(?:<!-- (?P<note>[^\n]*) -->\n)?```bash\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)


def steps(name: str) -> Iterator[Step]:
    """The console blocks of a page, less those that a comment before them takes out."""
    page = (ROOT / "docs" / name).read_text()
    for block in BLOCK.finditer(page):
        note = block["note"] or ""
        if note.startswith("not run"):
            continue
        code = re.fullmatch(r"exit (\d+)", note)
        yield Step(
            page=name,
            line=page.count("\n", 0, block.start()) + 1,
            code=block["code"],
            exit_code=int(code[1]) if code else 0,
            output=(block["output"] or "").splitlines(),
        )


def shape(line: str) -> str:
    """A line without what differs between two honest runs: paths above the working folder, numbers, hashes."""
    line = re.sub(r"(?<![\w.])/[^ :]*?/flights(?=/)|(?<![\w.])/[^ :]*?/pictures/", "", line.strip())
    line = re.sub(r"[0-9a-f]{16}", "#", line)
    line = re.sub(r"\d[\d,.]*", "#", line)
    return re.sub(r"# [KMG]i?B", "# B", re.sub(r" +", " ", line))


@pytest.fixture
def ray_is_there(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    """The commands of a page join a Ray that runs, which saves the start of several."""
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)


def run_step(step: Step, folder: Path) -> str:
    """Run it as a person would; both streams."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = ["bash", "-euo", "pipefail", "-c", step.code]
    done = subprocess.run(
        script,
        cwd=folder,
        env={**os.environ, "PATH": path},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == step.exit_code, f"docs/{step.page} line {step.line}\n{step.code}\n{done.stdout}"
    return done.stdout


def check_output(step: Step, output: str) -> None:
    """Every line that the page shows was printed."""
    printed = {shape(line) for line in output.splitlines()}
    missing = [line for line in step.output if line.strip() != "..." and shape(line) not in printed]
    assert not missing, f"docs/{step.page} line {step.line} shows {missing}\nbut this was printed:\n{output}"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_is_there")
def test_worked_example_runs_as_written(tmp_path: Path) -> None:
    folder = tmp_path / "flights"
    shutil.copytree(
        ROOT / "docs" / "flights", folder, ignore=shutil.ignore_patterns("data", "out", "outputs", "*.joblib")
    )
    found = list(steps("flights.md"))
    assert len(found) >= 10
    for step in found:
        check_output(step, run_step(step, folder))
    assert _rows(folder / "out" / "flights") == _rows(folder / "out" / "rule") == 336_776
    assert _rows(folder / "out" / "killed") == 308_641
    assert (folder / "out" / "killed" / "_SUCCESS").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_is_there")
def test_text_and_pictures_run_as_written(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for step in steps("text-and-pictures.md"):
        check_output(step, run_step(step, folder))
    assert [_rows(folder / "out" / name) for name in ("words", "brightness", "lengths", "dataset")] == [
        7,
        19,
        20,
        1_000,
    ]


@pytest.mark.slow
def test_flights_in_a_delta_table_run_as_written(tmp_path: Path) -> None:
    folder = tmp_path / "flights"
    shutil.copytree(ROOT / "docs" / "flights", folder)
    for step in steps("lake-tables.md"):
        check_output(step, run_step(step, folder))
    assert _rows(folder / "out" / "again") == 28_834


@pytest.mark.slow
def test_embeddings_run_as_written(tmp_path: Path) -> None:
    for step in steps("embeddings.md"):
        check_output(step, run_step(step, tmp_path))


def _rows(sink: Path) -> int:
    return int(ds.dataset(sink, format="parquet").count_rows())


@pytest.mark.parametrize("name", ["flights", "flights_month"])
def test_presets_are_shown_as_they_are(name: str) -> None:
    page = (ROOT / "docs" / "flights.md").read_text()
    assert (ROOT / "docs" / "flights" / "conf" / "job" / f"{name}.yaml").read_text() in page


# ---------------------------------------------------------------- kinds of one's own


@pytest.mark.parametrize(
    "file",
    ["scaling.py", "sqlite_rows.py", "sqlite_sink.py", "threads.py", "lengths.py", "moods.py", "endpoint.py"],
)
def test_kinds_of_ones_own_are_shown_as_they_are_tested(file: str) -> None:
    assert (
        f"```python\n{(ROOT / 'tests/foreign' / file).read_text()}```" in (ROOT / "docs" / "extending.md").read_text()
    )


# ---------------------------------------------------------------- links

LINK = re.compile(r"\[[^\]]*\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    broken = [match[0] for match in LINK.finditer(text) if not _leads(page, match[1], match[2])]
    assert not broken


def _leads(page: Path, path: str, anchor: str | None) -> bool:
    target = page.parent / path if path else page
    return target.exists() and (anchor is None or target.suffix != ".md" or anchor in _anchors(target.read_text()))


def _anchors(text: str) -> set[str]:
    """The names that a code host gives to headings."""
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# ---------------------------------------------------------------- tests that pages name

NAMED = re.compile(r"`(?:tests/)?(?:\w+/)?(test_\w+\.py)?(?:::(test_\w+))?`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_tests_exist(page: Path) -> None:
    """`test_x.py`, `test_x.py::test_y`, and `::test_z` after it in the same row."""
    named, last = set(), ""
    for file, function in NAMED.findall(page.read_text()):
        last = file or last
        if file or function:
            named.add((last, function))
    there = {file.name: file.read_text() for file in (ROOT / "tests").rglob("test_*.py")}
    assert [name for name in sorted(named) if not _is_there(there.get(name[0]), name[1])] == []


def _is_there(text: str | None, function: str) -> bool:
    return text is not None and (not function or f"def {function}(" in text)


def test_the_versions_of_the_page_on_data_are_those_that_are_installed() -> None:
    named = re.findall(r"`([\w-]+==[\w.]+)`", (ROOT / "docs" / "data.md").read_text())
    assert len(named) >= 8
    assert set(named) <= set((ROOT / "constraints.txt").read_text().split())


# ---------------------------------------------------------------- keys of the config

ROW = re.compile(r"^\| `([^`]+)` \| (.+?) \| .+ \|$", re.MULTILINE)


def config_keys() -> dict[str, list[Any]]:
    """Every key that a file below conf/ has, with the values it has in them."""
    found: dict[str, list[Any]] = {}
    for file in sorted(CONF.rglob("*.yaml")):
        text = file.read_text()
        content = shared(file)
        group = file.parent.name if file.parent != CONF and "@package _global_" not in text else ""
        for key, value in _keys({group: content} if group else content):
            # A preset gives keys other values; their defaults are elsewhere.
            found.setdefault(key, []).extend([] if file.parent.name == "job" else [value])
    return found


def _keys(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if name in {"defaults", "hydra"}:
            continue
        if isinstance(value, dict) and value:
            yield from ((f"{name}.{key}", each) for key, each in value.items() if key != "defaults")
        else:
            yield name, value


def documented() -> dict[str, str]:
    """Every key of the tables, with what the column of defaults says."""
    return dict(ROW.findall((ROOT / "docs" / "configuration.md").read_text()))


def test_every_key_is_documented() -> None:
    assert sorted(set(config_keys()) - set(documented())) == []


def test_every_documented_key_exists() -> None:
    known = {*config_keys(), *_arguments()}
    assert sorted(set(documented()) - known) == []


def _arguments() -> Iterator[str]:
    """What the built-in components take beyond what their files list."""
    for group in ("source", "model", "mode", "sink"):
        for file in options(CONF / group):
            content = shared(file)
            target = content.get("model", content)["_target_"]
            if target != "???":
                yield from (f"{group}.{name}" for name in inspect.signature(resolve_name(target)).parameters)


def test_documented_defaults_are_true() -> None:
    """A default in backticks is one that some file gives."""
    keys = config_keys()
    wrong = {
        key: (default, keys[key])
        for key, default in documented().items()
        if default.startswith("`") and key in keys and yaml.safe_load(default.strip("`")) not in keys[key]
    }
    assert wrong == {}


def test_every_option_of_a_group_is_listed() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    every = [f"{file.parent.name}={file.stem}" for group in CONF.glob("*/") for file in options(group)]
    assert [option for option in every if f"`{option}`" not in text] == []
