"""From a dotted path to what it names, within what the environment allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.__main__ import main
from runner.config import allowed
from runner.config.targets import Refused, locate, refused_by_hydra


def close(monkeypatch: pytest.MonkeyPatch, listed: str) -> None:
    """As if the program had been started with this list."""
    monkeypatch.setattr(allowed, "entries", allowed._read(listed))


@pytest.mark.parametrize(
    ("listed", "target"),
    [
        ("", "shutil.copytree"),
        ("ops", "models.taxi.load"),
        ("shutil", "shutil.copytree"),
        ("shutil.copytree, other.", "shutil.copytree"),
        ("ops", "runner.sinks.files.Files"),
    ],
)
def test_allowed(listed: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    close(monkeypatch, listed)
    assert callable(locate(target))


@pytest.mark.parametrize(
    ("listed", "target", "told"),
    [
        ("shut", "shutil.copytree", "is not allowed here; RUNNER_ALLOWED_TARGETS=shut"),
        ("ops", "opsevil.load", "is not allowed here; RUNNER_ALLOWED_TARGETS=ops"),
        ("ops", "runner.storage.folder.Folder", "is not allowed here; RUNNER_ALLOWED_TARGETS=ops"),
        (
            "ops",
            "models.taxi.load.__class__",
            "is really builtins.function, which is not allowed here; RUNNER_ALLOWED_TARGETS=ops",
        ),
        (
            "ops",
            "models.torch.os.system",
            "is really posix.system, which is not allowed here; RUNNER_ALLOWED_TARGETS=ops",
        ),
    ],
)
def test_not_allowed(listed: str, target: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    close(monkeypatch, listed)
    with pytest.raises(Refused) as refused:
        locate(target)
    assert str(refused.value).startswith(told)


def test_what_is_not_allowed_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    close(monkeypatch, "ops")
    with pytest.raises(Refused):
        locate("evil.load")
    assert not (tmp_path / "ran").exists()


def test_hydra_refuses_some_targets_always() -> None:
    with pytest.raises(Refused):
        locate("builtins.eval")


@pytest.mark.parametrize(
    "override",
    [
        "+hydra.callbacks.mine._target_=os.system",
        "hydra.sweeper._target_=os.system",
        "hydra.launcher._target_=os.system",
        "+hydra.job_logging.handlers.x.class=os.system",
    ],
)
def test_a_closed_list_holds_for_hydra_too(
    override: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    close(monkeypatch, "ops")
    assert main(["mode=inline", "action=plan", override]) == 2
    key = override.lstrip("+").partition("=")[0]
    assert capsys.readouterr().err == f"error: {key}=os.system: is not allowed here; RUNNER_ALLOWED_TARGETS=ops\n"


def test_hydras_own_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    close(monkeypatch, "ops")
    assert main(["mode=inline", "action=plan"]) == 0
    assert main(["mode=inline", "action=plan", "hydra/job_logging=default", "hydra/hydra_logging=default"]) == 0


def test_an_open_list_refuses_nothing() -> None:
    assert refused_by_hydra({"callbacks": {"x": {"_target_": "os.system"}}}) == []


EVIL = "from pathlib import Path\nPath({mark!r}).touch()\ndef load(**_):\n    return lambda batch: batch['a']\n"


def plant(name: str) -> Path:
    """A module in the working directory; what it would leave behind if it were imported."""
    mark = Path(f"{name}.ran".replace("/", ".")).resolve()
    file = Path(f"{name}.py")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(EVIL.format(mark=str(mark)))
    return mark


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said when nothing is run."""
    assert main(["mode=inline", "sink.path=out", *argv]) == 2
    assert not Path("out").exists()
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "override",
    [
        "ray.runtime_env.py_modules=[evil]",
        "ray.runtime_env.working_dir=evil",
        "ray.runtime_env.env_vars.PYTHONPATH=evil",
        "ray.runtime_env.worker_process_setup_hook=evil.load",
        "ray.runtime_env.pip=[evil]",
        "ray.runtime_env.image_uri=evil",
        "ray.address=evil:6379",
        "+hydra.job.env_set.RUNNER_ALLOWED_TARGETS=",
        "+hydra.job.env_set.PYTHONPATH=evil",
        "hydra.searchpath=[pkg://evil]",
        "+hydra.job_logging.handlers.x.stream=ext://evil.load",
        "+hydra.job_logging.handlers.x.filters=[{class:evil.load}]",
        "hydra.callbacks=${vars.x}",
        "hydra.callbacks=${oc.create:{x:{_target_:evil.load}}}",
    ],
)
@pytest.mark.parametrize("sweep", [(), ("-m", "batch_size=5,6")], ids=["job", "sweep"])
def test_a_closed_list_has_no_way_around_it(
    override: str, sweep: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    mark = plant("evil/__init__")
    close(monkeypatch, "ops")
    told = refused([override, *sweep], capsys)
    assert "is not allowed here; RUNNER_ALLOWED_TARGETS=ops" in told
    assert override.lstrip("+").partition("=")[0].partition(".")[0] in told
    assert not mark.exists()


def test_one_job_of_a_sweep_is_held_to_the_list(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    close(monkeypatch, "ops")
    assert "hydra.job.env_set" in refused(["-m", "+hydra.job.env_set.X=a,b"], capsys)


@pytest.mark.parametrize("name", ["models/evil", "models/__init__", "models/_files", "models/taxi"])
def test_built_in_models_are_known_by_where_they_lie(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    mark = plant(name)
    close(monkeypatch, "ops")
    target = "models.evil.load" if name == "models/evil" else "models.taxi.load"
    told = refused([f"model._target_={target}"], capsys)
    assert f"model._target_={target}: is not the built-in one, or hides one by its name: it is not allowed here" in told
    assert not mark.exists()


def test_models_of_ones_own_are_allowed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    plant("models/mine_alone")
    close(monkeypatch, "models.mine_alone")
    assert callable(locate("models.mine_alone.load"))
    assert callable(locate("models.taxi.load"))


@pytest.mark.parametrize(
    ("given", "key"),
    [
        (["source=sql", "source.uri=x://h", "source.table=t", "source.driver=evil.so"], "source.driver: "),
        (["sink=sql", "sink.uri=x://h", "sink.table=t", "sink.driver=evil.so"], "sink.driver: "),
        (["source=iceberg", "source.table=a.b", "source.catalog.py-io-impl=evil.load"], "source.catalog.py-io-impl="),
    ],
)
def test_what_brings_code_to_a_database_or_a_catalog_is_held_to_the_list(
    given: list[str], key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    close(monkeypatch, "ops")
    assert main(["mode=inline", *given]) == 2
    told = capsys.readouterr().err
    assert key in told
    assert "is not allowed here; RUNNER_ALLOWED_TARGETS=ops" in told


@pytest.mark.parametrize(
    "model",
    [
        ("model=sklearn", "model.path=m.joblib"),
        ("model=sklearn", "model.path=m.skops", "model.trusted=[evil.Type]"),
        ("model=torch", "model.path=m.pt", "model.trust_pickle=true"),
    ],
)
def test_pickles_are_refused_unless_the_list_names_them(
    model: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "a file that executes code when it is read is not allowed here; RUNNER_ALLOWED_TARGETS=ops; add +pickle to the list"
    close(monkeypatch, "ops")
    assert told in refused([*model], capsys)
    close(monkeypatch, "ops,+pickle")
    assert told not in refused([*model, "batch_size=none"], capsys)


def test_a_loader_refuses_pickles_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a worker whose own environment has no list."""
    from models.sklearn import load

    Path("m.joblib").write_bytes(b"")
    close(monkeypatch, "")
    with pytest.raises(ValueError, match="executes code when it is read is not allowed here"):
        allowed.under(("ops",), load, path="m.joblib")


def test_the_list_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    close(monkeypatch, "ops")
    monkeypatch.setenv("RUNNER_ALLOWED_TARGETS", "")
    with pytest.raises(Refused):
        locate("shutil.copytree")


def test_a_plugin_of_hydra_in_the_working_directory_is_not_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    mark = plant("hydra_plugins/evil")
    close(monkeypatch, "ops")
    assert "Hydra would import it, which is not allowed here" in refused([], capsys)
    assert not mark.exists()


def test_a_pickled_run_of_hydra_is_not_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    close(monkeypatch, "ops")
    assert "--experimental-rerun: reads a pickle" in refused(["--experimental-rerun=config.pickle"], capsys)
