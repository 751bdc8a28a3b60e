"""Twenty credentials planted in twenty ways: none is in anything that is shown or written, nor in the command line of a child."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from outside import write_data

from runner import RunnerError, run
from runner.__main__ import main
from runner.errors import Incomplete
from runner.modes import session
from runner.types import RayOptions
from runner.words.secrets import learn

SECRETS = {f"PLANTED_{name}": f"plant-{i:02}/{name}+{'x7' * 6}" for i, name in enumerate("ABCDEFGHIJKLMNOPQRST")}
KEY = {name: f"${{oc.env:{name}}}" for name in SECRETS}
URL = "https://127.0.0.1:1/in.parquet?X-Amz-Signature="

OPS = """
import hashlib, os, sys
from dataclasses import dataclass
from pathlib import Path

from runner.sinks.files import Files as FilesSink
from runner.sources.files import Files

def secrets():
    return " ".join(value for name, value in sorted(os.environ.items()) if name.startswith(("PLANTED_", "AWS_SECRET")))

class Refused(Exception):
    pass

def fails(where, fail):
    if where in fail:
        raise Refused(f"{where}: {secrets()}")

@dataclass(frozen=True)
class Source(Files):
    fail: str = ""
    def inputs(self):
        fails("list", self.fail)
        return super().inputs()
    def inspect(self, files, needed=None):
        fails("inspect", self.fail)
        return super().inspect(files, needed)
    def reader(self, schema):
        return Reader(super().reader(schema), self.fail)

class Reader:
    def __init__(self, reader, fail):
        self.reader, self.fail = reader, fail
    def read(self, fragment, columns):
        fails("read", self.fail)
        return self.reader.read(fragment, columns)
    def positions(self, fragment):
        return self.reader.positions(fragment)

@dataclass(frozen=True)
class Sink(FilesSink):
    fail: str = ""
    def check(self, schema):
        fails("check", self.fail)
    def write(self, shard, schema, tables):
        fails("write", self.fail)
        return super().write(shard, schema, tables)

def load(token=None, headers=None, more=None, storage_options=None, fail="", **_):
    child = "runner.predictor.child" in sys.orig_argv
    if "load" in fail or "child" in fail and child:
        raise RuntimeError(f"refused: {secrets()}")
    def predict(batch):
        if "child" in fail and not child:
            os._exit(3)
        if "predict" in fail:
            raise ValueError(f"cannot reach it with {secrets()!r}")
        if "rows" in fail and 3 in list(batch["b"]):
            raise ValueError(f"row 3 with {secrets()}")
        if "look" in fail:
            with open("seen.txt", "a") as file:
                print(hashlib.sha256(os.environ.get("HF_TOKEN", "").encode()).hexdigest(), file=file)
            for pid in filter(str.isdecimal, os.listdir("/proc")):
                try:
                    text = Path("/proc", pid, "cmdline").read_bytes()
                except OSError:
                    continue
                with open("ps.txt", "ab") as file:
                    file.write(text + b"\\n")
        return batch["a"]
    return predict
"""

GIVEN = {  # what resolves to a credential, under every kind of key
    "model.token": KEY["PLANTED_A"],
    "model.headers": {"Authorization": f"Bearer {KEY['PLANTED_B']}", "x-api-key": KEY["PLANTED_C"]},
    "model.more": {
        "deep": [{"password": KEY["PLANTED_D"]}],
        "db": "${vars.db_password}",
        "uri": "${vars.uri}",
        "signed": "${vars.signed}",
        "account": "${vars.connection_string}",
        "dsn": "${oc.env:DB_PASSWORD}",
        "api_key": "${oc.env:PLANTED_P,none}",
        "cookies": {"Cookie": f"session={KEY['PLANTED_Q']}"},
        "basic": {"Authorization": f"Basic {KEY['PLANTED_S']}"},
        "client_secret": [KEY["PLANTED_T"]],
    },
    "model.storage_options": {"secret": "${vars.through}"},
    "source.storage_options": {"auto_mkdir": True, "token": KEY["PLANTED_F"]},
    "sink.storage_options": {"auto_mkdir": True, "secret": KEY["PLANTED_G"]},
    "vars.through": KEY["PLANTED_E"],
    "vars.db_password": KEY["PLANTED_H"],
    "vars.uri": f"postgresql://me:{KEY['PLANTED_I']}@host/db",
    "vars.signed": f"{URL}{KEY['PLANTED_J']}",
    "model.credentials": KEY["PLANTED_K"],
    "ray.runtime_env.env_vars.HF_TOKEN": KEY["PLANTED_L"],
    "ray.runtime_env.env_vars.OPENAI_API_KEY": KEY["PLANTED_R"],
    "vars.connection_string": f"AccountName=a;AccountKey={KEY['PLANTED_M']};x=y",
}


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path / "in")
    (tmp_path / "planted_ops.py").write_text(OPS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "planted_ops", raising=False)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS["PLANTED_N"])
    monkeypatch.setenv("DB_PASSWORD", SECRETS["PLANTED_O"])


def leaks(*texts: str) -> Iterator[str]:
    """Where a credential is seen: in what was shown, or in a file, whatever it is called."""
    written = [file for file in Path.cwd().rglob("*") if file.is_file() and file.name != "planted_ops.py"]
    shown = [(f"text {i}", text.encode()) for i, text in enumerate(texts)]
    for name, content in [*shown, *((str(file), str(file).encode() + _content(file)) for file in written)]:
        yield from (f"{secret} in {name}" for secret, value in SECRETS.items() if value.encode() in content)


def _content(file: Path) -> bytes:
    if file.suffix != ".parquet":
        return file.read_bytes()
    import pyarrow.parquet as pq

    return str(pq.read_table(file).to_pylist()).encode()


def argv(config: Mapping[str, Any], *more: str) -> list[str]:
    """As it is typed."""
    return [*(f"{key}={_typed(value)}" for key, value in config.items()), *more]


def _typed(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{','.join(f'{name}: {_typed(each)}' for name, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


JOB = {
    "source.path": "in",
    "mode": "inline",
    "sink.path": "out",
    "model": "custom",
    "model._target_": "planted_ops.load",
    **GIVEN,
}


SOURCE = ("source=custom", "source._target_=planted_ops.Source", "source.format=parquet")
SINK = ("sink=custom", "sink._target_=planted_ops.Sink", "sink.format=parquet")


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ((), 0),
        (("action=plan",), 0),
        (("model.fail=load",), 1),
        (("model.fail=predict",), 1),
        (("model.fail=rows", "errors=quarantine", "errors.max_bad_rows=5"), 0),
        (("model.fail=load", "predict.load_on=worker"), 1),
        (("mode=processes", "model.fail=load", "predict.load_on=worker"), 1),
        pytest.param(
            ("mode=processes", "mode.num_workers=1", "model.fail=child", "predict.load_on=worker"),
            1,
            marks=pytest.mark.slow,
        ),
        *(((*SOURCE, f"source.fail={step}"), 1) for step in ("list", "inspect", "read")),
        *(((*SINK, f"sink.fail={step}"), 1) for step in ("check", "write")),
        (("-m", "batch_size=5,6", "sink.path=out/${hydra:job.num}"), 0),
        (("-m", "batch_size=5,6", "sink.path=out/${hydra:job.num}", "model.fail=predict"), 1),
        (("source.path=${vars.signed}",), 2),
        (("sink.path=${vars.uri}",), 2),
        (("batch_size=${vars.db_password}",), 2),
        (("shard_bytes=${oc.env:PLANTED_A}", "model.nope=1"), 2),
    ],
    ids=str,
)
def test_none_is_shown_or_written(more: Sequence[str], code: int, capfd: pytest.CaptureFixture[str]) -> None:
    given = {key: value for key, value in JOB.items() if not any(each.startswith(f"{key}=") for each in more)}
    assert main(argv(given, *more)) == code
    assert list(leaks(*capfd.readouterr())) == []
    if code == 0 and more == ():
        assert main(argv(JOB, "action=verify")) == 0
        assert main(argv(JOB, "batch_size=3")) == 2
        assert list(leaks(*capfd.readouterr())) == []


LITERALS = {
    "model.token": SECRETS["PLANTED_A"],
    "model.headers": {"Authorization": f"Bearer {SECRETS['PLANTED_B']}"},
    "vars.password": SECRETS["PLANTED_C"],
    "source.storage_options": {"secret": SECRETS["PLANTED_D"]},
    "vars.signed": f"{URL}{SECRETS['PLANTED_E']}",
    "source.path": f"s3://key:{SECRETS['PLANTED_F']}@bucket/in",
    "ray.runtime_env": {"env_vars": {"HF_TOKEN": SECRETS["PLANTED_G"]}},
}


@pytest.mark.parametrize("key", LITERALS)
def test_a_literal_is_refused_wherever_it_stands(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On the command line, in a sweep, in a preset and from Python."""
    job = {**JOB, key: LITERALS[key]}
    assert main(argv(job)) == 2
    assert main(argv(job, "-m", "batch_size=5,6")) == 2
    preset = Path("conf/job/night.yaml")
    preset.parent.mkdir(parents=True)
    group, _, name = key.partition(".")
    preset.write_text(f"# @package _global_\n{group}: {{{name}: {_typed(LITERALS[key])}}}\n")
    assert (
        main(
            argv(
                {name: value for name, value in JOB.items() if not name.startswith(key)},
                "--config-dir=conf",
                "job=night",
            )
        )
        == 2
    )
    with pytest.raises(RunnerError) as refused:
        run(job)
    preset.unlink()
    assert list(leaks(*capsys.readouterr(), str(refused.value))) == []
    assert not Path("out").exists()


def test_no_child_has_one_in_its_command_line() -> None:
    job = {**JOB, "mode": "processes", "model.fail": "look"}
    done = subprocess.run(
        [sys.executable, "-m", "runner", *argv(job)],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "runner.modes.serve" in Path("ps.txt").read_bytes().decode()
    assert list(leaks(done.stdout, done.stderr)) == []


@pytest.mark.parametrize(
    "fails",
    [{"model.fail": "load"}, {"model.fail": "predict"}, {"mode": "processes", "model.fail": "load"}],
    ids=str,
)
def test_none_is_in_an_error_that_a_notebook_shows(fails: Mapping[str, Any]) -> None:
    """Nor in what led to it."""
    with pytest.raises(RunnerError) as refused:
        run({**JOB, **fails})
    error = refused.value
    texts = str(error), repr(error), str(error.__cause__), "".join(traceback.format_exception(error))
    assert "***" in texts[-1]
    assert list(leaks(*texts)) == []


def test_what_led_to_an_error_stays_where_it_quotes_none() -> None:
    Path("quiet_ops.py").write_text("def load(**_):\n    raise KeyError('nope')\n")
    with pytest.raises(RunnerError) as refused:
        run({**JOB, "model": "custom", "model._target_": "quiet_ops.load"})
    assert isinstance(refused.value.__cause__, KeyError)


@pytest.mark.slow
def test_a_private_ray_gives_workers_theirs_and_shows_none() -> None:
    """Two jobs of a sweep with another value each: not in a command line, nor in what Ray and its workers log."""
    job = {**JOB, "mode": "tasks", "model.fail": "look rows", "errors": "quarantine", "errors.max_bad_rows": 5}
    del job["ray.runtime_env.env_vars.HF_TOKEN"]
    tokens = f"ray.runtime_env.env_vars.HF_TOKEN={KEY['PLANTED_L']},{KEY['PLANTED_Q']}"
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:  # the paths of its sockets must be short
        process = subprocess.Popen(
            [sys.executable, "-m", "runner", *argv(job, "-m", tokens, "sink.path=out/${hydra:job.num}")],
            env={**os.environ, "RAY_TMPDIR": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines: set[bytes] = set()
        while process.poll() is None:
            lines |= set(command_lines())
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)  # it is over, or another look is due
        told, _ = process.communicate()
        assert process.returncode == 0, told
        logs = [file.read_text(errors="replace") for file in Path(folder).rglob("*.*") if file.is_file()]
        assert logs
    seen = Path("seen.txt").read_text().split()
    assert set(seen) == {hashlib.sha256(SECRETS[name].encode()).hexdigest() for name in ("PLANTED_L", "PLANTED_Q")}
    assert any(b"default_worker.py" in line for line in lines)
    assert list(leaks(told, b"\n".join(lines).decode(errors="replace"), *logs)) == []


@pytest.mark.parametrize("address", ["local", "auto"])
def test_only_a_cluster_that_is_joined_is_given_them_and_that_is_said(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    given: dict[str, Any] = {}

    def init(**options: Any) -> None:
        given.update(options["runtime_env"], inherited=os.environ.get("MY_TOKEN"))
        raise ConnectionError("enough")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    said: list[str] = []
    variables = {"MY_TOKEN": "t0ken-of-mine", "PLAIN": "x", "INNOCENT": SECRETS["PLANTED_A"], "HOMES": "${HOME}"}
    learn([SECRETS["PLANTED_A"]])
    with pytest.raises(Incomplete):
        session.connect(RayOptions(address, {"env_vars": variables, "working_dir": "."}), said.append)
    joined = address == "auto"
    expected = variables if joined else {"PLAIN": "x", "HOMES": "${HOME}"}
    inherited = None if joined else "t0ken-of-mine"
    assert given == {"env_vars": expected, "working_dir": ".", "inherited": inherited}
    assert any("MY_TOKEN, INNOCENT" in line for line in said) == joined
    assert "MY_TOKEN" not in os.environ
    assert list(leaks(*said)) == []


def command_lines() -> Iterator[bytes]:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield file.read_bytes()
