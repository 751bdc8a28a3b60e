"""Twenty credentials planted in twenty ways: none is in anything that is shown or written, nor in the command line of a child."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from outside import write_data

from runner import RunnerError, run
from runner.__main__ import main

SECRETS = {f"PLANTED_{name}": f"plant-{i:02}/{name}+{'x7' * 6}" for i, name in enumerate("ABCDEFGHIJKLMNOPQRST")}
KEY = {name: f"${{oc.env:{name}}}" for name in SECRETS}
URL = "https://127.0.0.1:1/in.parquet?X-Amz-Signature="

OPS = """
import os, sys
from pathlib import Path

def secrets():
    return " ".join(value for name, value in sorted(os.environ.items()) if name.startswith(("PLANTED_", "AWS_SECRET")))

def load(token=None, headers=None, more=None, storage_options=None, fail=None, **_):
    if fail == "load":
        raise RuntimeError(f"refused: {secrets()}")
    def predict(batch):
        if fail == "predict":
            raise ValueError(f"cannot reach it with {secrets()!r}")
        if fail == "rows" and 3 in list(batch["b"]):
            raise ValueError(f"row 3 with {secrets()}")
        if fail == "look":
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


def leaks(*texts: str) -> Iterator[str]:
    """Where a credential is seen: in what was shown, or in a file, whatever it is called."""
    written = [file for file in Path.cwd().rglob("*") if file.is_file() and file.name != "planted_ops.py"]
    shown = [(f"text {i}", text.encode()) for i, text in enumerate(texts)]
    for name, content in [*shown, *((str(file), str(file).encode() + _content(file)) for file in written)]:
        yield from (
            f"{secret} in {name}"
            for secret, value in SECRETS.items()
            if secret in PLANTED and value.encode() in content
        )


PLANTED = {f"PLANTED_{letter}" for letter in "ABCDEFGHIJKLMN"}


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


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ((), 0),
        (("action=plan",), 0),
        (("model.fail=load",), 1),
        (("model.fail=predict",), 1),
        (("model.fail=rows", "errors=quarantine", "errors.max_bad_rows=5"), 0),
        (("-m", "batch_size=5,6", "sink.path=out/${hydra:job.num}"), 0),
        (("-m", "batch_size=5,6", "sink.path=out/${hydra:job.num}", "model.fail=predict"), 1),
        (("source.path=${vars.signed}",), 2),
        (("sink.path=${vars.uri}",), 2),
        (("batch_size=${vars.db_password}",), 2),
        (("shard_bytes=${oc.env:PLANTED_A}", "model.nope=1"), 2),
    ],
    ids=str,
)
def test_none_is_shown_or_written(more: Sequence[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    given = {key: value for key, value in JOB.items() if not any(each.startswith(f"{key}=") for each in more)}
    assert main(argv(given, *more)) == code
    assert list(leaks(*capsys.readouterr())) == []
    if code == 0 and more == ():
        assert main(argv(JOB, "action=verify")) == 0
        assert main(argv(JOB, "batch_size=3")) == 2
        assert list(leaks(*capsys.readouterr())) == []


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
