"""Credentials are never written: not to a log, a saved config, a manifest or a report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from outside import runner, write_data, write_ops

from runner import SinkRefused, run
from runner.__main__ import main
from runner.fingerprint.sealed import revive, seal
from runner.words import secrets
from runner.words.credentials import HIDDEN, is_secret
from runner.words.secrets import hide, learn, literals, redacted, shown, shown_override

VALUE = "hunter2hunter2"
DATA = ("source.path=in", "mode=inline", "sink.path=out")
TAIL = "a credential does not belong in a config; give ${oc.env:NAME} and set NAME in the environment"


@pytest.mark.parametrize(
    "key",
    [
        "source.storage_options.secret",
        "sink.storage_options.token",
        "source.storage_options.client_kwargs.aws_secret_access_key",
        "source.storage_options.connection_string",
        "source.storage_options.token.private_key",
        "model.api_key",
        "model.hf_token",
        "model.credentials.user",
        "model.passwords_secret[1]",
        "ray.runtime_env.env_vars.HF_TOKEN",
        "ray.runtime_env.env_vars.OPENAI_API_KEY",
        "vars.db_password",
        "model.token",
        "model.headers.Authorization",
        "model.headers.x-api-key",
        "model.apiKey",
        "model.clientSecret",
        "model.my_token",
    ],
)
def test_secret_keys(key: str) -> None:
    assert is_secret(key)


@pytest.mark.parametrize(
    "key",
    [
        "model.max_tokens",
        "model.pad_token",
        "model.tokenizer",
        "source.storage_options.key",
        "model.key",
        "vars.password_file",
    ],
)
def test_keys_that_are_none(key: str) -> None:
    assert not is_secret(key)


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        ({"model": {"api_key": VALUE}}, ["model.api_key"]),
        ({"model": {"api_key": 12345}}, ["model.api_key"]),
        ({"model": {"keys": [{"api_key": VALUE}]}}, ["model.keys[0].api_key"]),
        ({"model": {"api_key": "${oc.env:KEY}"}}, []),
        ({"model": {"api_key": None}, "source": {"storage_options": {"token": "anon"}}}, []),
        ({"model": {"api_key": "${vars.k}"}, "vars": {"k": VALUE}}, ["model.api_key"]),
        ({"model": {"api_key": "${vars.k}"}, "vars": {"k": "${oc.env:KEY}"}}, []),
        ({"source": {"path": f"sftp://me:{VALUE}@host/x"}}, ["source.path"]),
        ({"source": {"path": "sftp://me:${oc.env:PW}@host/x"}}, []),
        ({"source": {"path": "s3://anonymous@bucket/x"}}, []),
    ],
)
def test_literals(config: dict[str, Any], keys: list[str]) -> None:
    assert literals(config) == keys
    if any(key.startswith(("model", "source")) for key in keys) and "vars" not in config:
        assert VALUE not in str(redacted(config))


def test_what_is_shown() -> None:
    assert shown("model.api_key", VALUE) == f"model.api_key={HIDDEN}"
    assert shown("source.storage_options", {"key": VALUE}) == f"source.storage_options={HIDDEN}"
    assert shown("source.path", f"sftp://me:{VALUE}@host") == f"source.path=sftp://me:{HIDDEN}@host"
    assert shown("source.columns", ["a", None, True]) == "source.columns=[a, null, true]"


@pytest.mark.parametrize(
    "override",
    [
        f"source.storage_options.secret={VALUE}",
        f"source.storage_options={{secret:{VALUE}}}",
        f"+model.api_key={VALUE}",
        f"model.client={{api_key: {VALUE}}}",
        f"sink.path=sftp://me:{VALUE}@host/out",
    ],
)
def test_a_literal_is_refused_and_not_repeated(
    override: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_data(tmp_path / "in")
    for command in ([*DATA, override], [*DATA, override, "-m", "batch_size=0,5"], [*DATA, f"{override}(x"]):
        assert main(command) == 2
        out, err = capsys.readouterr()
        assert VALUE not in out + err
        assert TAIL in err or "oc.env:NAME" in err
    assert VALUE.encode() not in everything_below(tmp_path)


def test_a_sweep_over_a_literal_is_not_repeated(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_data(tmp_path / "in")
    assert main([*DATA, "-m", f"sink.storage_options.secret={VALUE},{VALUE}2"]) == 2
    assert VALUE not in "".join(capsys.readouterr())


LOADER = """
def load(api_key: str, storage_options: dict | None = None):
    assert api_key == {value!r} == storage_options["secret"]
    return lambda batch: batch["a"]
"""


@pytest.mark.parametrize(
    "sweep", [(), ("-m", "batch_size=5,6", "sink.path=out/${hydra:job.num}")], ids=["job", "sweep"]
)
def test_a_secret_of_the_environment_is_used_and_never_written(sweep: tuple[str, ...], tmp_path: Path) -> None:
    write_data(tmp_path / "in")
    write_ops(tmp_path)
    (tmp_path / "ops/keyed.py").write_text("import os\n" + LOADER.replace("{value!r}", 'os.environ["KEY"]'))
    argv = [
        *DATA,
        "model._target_=ops.keyed.load",
        "model.api_key=${oc.env:KEY}",
        "model.storage_options.secret=${vars.secret}",
        "vars.secret=${oc.env:KEY}",
        "source.storage_options.auto_mkdir=true",
        *sweep,
    ]
    done = runner(argv, tmp_path, {"KEY": VALUE})
    assert done.returncode == 0, done.stderr
    assert VALUE not in done.stdout + done.stderr
    written = everything_below(tmp_path)
    assert b"${oc.env:KEY}" in written
    assert VALUE.encode() not in written


def test_a_secret_does_not_change_the_fingerprint(tmp_path: Path) -> None:
    write_data(tmp_path / "in")
    write_ops(tmp_path)
    (tmp_path / "ops/open.py").write_text('def load(api_key: str):\n    return lambda batch: batch["a"]\n')
    argv = [*DATA, "model._target_=ops.open.load", "model.api_key=${oc.env:KEY}"]
    assert runner(argv, tmp_path, {"KEY": VALUE}).returncode == 0
    again = runner(argv, tmp_path, {"KEY": "rotated"})
    assert again.returncode == 0
    assert "nothing to do" in again.stdout


def test_a_resolved_path_with_a_password_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WHERE", f"sftp://me:{VALUE}@host/in")
    assert main(["source.path=${oc.env:WHERE}", "mode=inline"]) == 2
    told = "error: source.path=***: a path with a password in it would be recorded; give it in source.storage_options\n"
    assert capsys.readouterr().err == told


def everything_below(folder: Path) -> bytes:
    """All that is written in a folder, names included."""
    return b"".join(str(file).encode() + file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_overrides_without_secrets_are_shown() -> None:
    assert shown_override("batch_size=3") == "batch_size=3"
    assert shown_override("mode") == "mode"


@pytest.mark.parametrize(
    ("learnt", "text", "without"),
    [
        ("s3cr3t/v@lue", "no s3cr3t/v@lue, no s3cr3t%2Fv%40lue here", "no ***, no *** here"),
        ("pass", "pass the passage; pass.", "*** the passage; ***."),
        ("correcthorse", "a correcthorse, incorrecthorses", "a ***, incorrecthorses"),
        ("Bearer abc12345x", "got abc12345x, the bearer", "got ***, the bearer"),
        ('two "words"', r'{"key": "two \"words\""}', '{"key": "***"}'),
        ("4711", "4711 rows", "4711 rows"),
        ("true", "it is true", "it is true"),
        ("abc", "abc", "abc"),
        ("00000000", "part-00000000", "part-00000000"),
        ("-----BEGIN KEY-----\nMIIEvQIBADANBgkq\n-----END KEY-----", "line MIIEvQIBADANBgkq", "line ***"),
    ],
)
def test_values_that_were_learnt_are_hidden(
    learnt: str, text: str, without: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(monkeypatch)
    learn([learnt])
    assert hide(text) == without


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("s3://key:se/cret@bucket/x", "s3://key:***@bucket/x"),
        ("http://localhost:8080/a@b", "http://localhost:8080/a@b"),
        ("s3://${oc.env:KEY}@bucket", "s3://${oc.env:KEY}@bucket"),
        ("https://h/x?a=1&X-Amz-Signature=0a1b2c&b=2", "https://h/x?a=1&X-Amz-Signature=***&b=2"),
        ("https://h/x?sig=${oc.env:SIG}", "https://h/x?sig=${oc.env:SIG}"),
        ("Authorization: Bearer abcdefg1", "Authorization: Bearer ***"),
        ("Basic arithmetic, Bearer authentication", "Basic arithmetic, Bearer authentication"),
        ("hf_" + 30 * "a", "***"),
        ("model.token=${oc.env:HF_TOKEN}", "model.token=${oc.env:HF_TOKEN}"),
    ],
)
def test_what_looks_like_a_credential_is_hidden(text: str, without: str) -> None:
    assert hide(text) == without


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with nothing learnt, and end with what was known before."""
    monkeypatch.setattr(secrets, "_learnt", set())
    secrets._pattern.cache_clear()


# ---------------------------------------------------------------- what the fingerprint holds of the environment

OPEN = 'def load(name: str, token: str | None = None, more: dict | None = None):\n    return lambda batch: batch["a"]\n'


def keyed_job(**config: Any) -> dict[str, Any]:
    """A job over a loader of one's own."""
    return {"source": "parquet", "source.path": "in", "mode": "inline", "sink.path": "out", "model": "custom",
            "model._target_": "sealed_loader.load", "model.name": "${oc.env:MODEL}", **config}  # fmt: skip


@pytest.fixture
def _keyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path / "in")
    (tmp_path / "sealed_loader.py").write_text(OPEN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "sealed_loader", raising=False)
    monkeypatch.setenv("MODEL", "first-of-all-models")


@pytest.mark.usefixtures("_keyed")
def test_a_value_of_the_environment_counts_and_is_recorded_as_its_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    run(keyed_job())
    recipe = json.loads(Path("out/_runner/recipe.json").read_text())
    assert recipe["fields"]["model.arguments"]["name"].startswith("${oc.env:MODEL} (sha256:")
    assert b"first-of-all-models" not in everything_below(Path("out"))
    assert run(keyed_job()).committed == 0
    assert run(keyed_job(**{"model.name": "${vars.m}", "vars.m": "${oc.env:MODEL}"})).committed == 0
    assert run(keyed_job(**{"model.name": "first-of-all-models"})).committed == 0
    monkeypatch.setenv("MODEL", "second-of-all-models")
    with pytest.raises(SinkRefused) as refused:
        run(keyed_job())
    assert "model.arguments name  the value behind ${oc.env:MODEL} is another one now" in str(refused.value)
    assert "of-all-models" not in str(refused.value)


@pytest.mark.usefixtures("_keyed")
def test_a_recipe_that_was_recorded_in_plain_text_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """As earlier versions wrote it: also with a token in it, which rotates."""
    monkeypatch.setenv("HF_TOKEN", "the-new-token-1")
    job = keyed_job(**{"model.token": "${oc.env:HF_TOKEN}"})
    run(job)
    recipe = Path("out/_runner/recipe.json")
    content = json.loads(recipe.read_text())
    content["fields"]["model.arguments"] = {"name": "first-of-all-models", "token": "the-old-token-1"}
    recipe.write_text(json.dumps(content))
    assert run(job).committed == 0
    with pytest.raises(SinkRefused) as refused:
        run({**job, "batch_size": 3})
    assert "token-1" not in str(refused.value)


@pytest.mark.usefixtures("_keyed")
def test_credentials_are_no_part_of_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "rotated-1-value")
    with_token = keyed_job(
        **{"model.token": "${oc.env:HF_TOKEN}", "model.more": {"headers": {"Authorization": "${oc.env:HF_TOKEN}"}}}
    )
    run(with_token)
    monkeypatch.setenv("HF_TOKEN", "rotated-2-value")
    assert run(with_token).committed == 0
    assert run({**with_token, "model.token": None}).committed == 0
    assert b"rotated-" not in everything_below(Path("out"))


@pytest.mark.usefixtures("_keyed")
def test_an_artifact_from_the_environment_is_known_by_its_reference(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "weights-of-somebody.bin").write_bytes(b"1")
    monkeypatch.setenv("WEIGHTS", str(tmp_path / "weights-of-somebody.bin"))
    job = keyed_job(**{"predict.artifacts": ["${oc.env:WEIGHTS}"]})
    run(job)
    recipe = Path("out/_runner/recipe.json")
    content = json.loads(recipe.read_text())
    assert "artifact ${oc.env:WEIGHTS}" in content["fields"]
    assert run(job).committed == 0
    digest = content["fields"].pop("artifact ${oc.env:WEIGHTS}")
    content["fields"][f"artifact {tmp_path}/weights-of-somebody.bin"] = digest  # as earlier versions named it
    recipe.write_text(json.dumps(content))
    assert run(job).committed == 0


@pytest.mark.usefixtures("_keyed")
def test_a_changed_artifact_behind_a_reference_is_accepted_as_the_refusal_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "weights-of-somebody.bin"
    weights.write_bytes(b"1")
    monkeypatch.setenv("WEIGHTS", str(weights))
    command = [f"{key}={value}" for key, value in keyed_job(**{"predict.artifacts": "[${oc.env:WEIGHTS}]"}).items()]
    assert main(command) == 0
    weights.write_bytes(b"2")
    assert main(command) == 2
    refusal = capsys.readouterr().err
    assert "or 'sink.accept=[artifact ${oc.env:WEIGHTS}]' to go on" in refusal
    assert main([*command, "sink.accept=[artifact ${oc.env:WEIGHTS}]"]) == 0


def test_sealed_values_compare_by_value() -> None:
    given = seal({"a": ["x", {"b": "secretive"}]}, {"secretive": "${oc.env:A}"})
    again = seal({"a": ["x", {"b": "secretive"}]}, {"secretive": "${oc.env:A}"})
    other = seal({"a": ["x", {"b": "another"}]}, {"another": "${oc.env:A}"})
    recorded = revive(json.loads(json.dumps(given)))
    assert json.dumps(given) == json.dumps(again)
    assert given == recorded == {"a": ["x", {"b": "secretive"}]}
    assert recorded == revive(json.loads(json.dumps(given)))
    assert recorded not in (other, {"a": ["x", {"b": "another"}]})
    assert given != other
