"""Whatever is wrong with a config is told before anything runs: all of it, in words that help."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from outside import runner, write_data, write_ops
from wrong_configs import DATA, WRONG, Case

from runner.__main__ import main


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run."""
    write_data(tmp_path / "in")
    write_ops(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget_ops()
    return tmp_path


def forget_ops() -> None:
    """Each test's `ops` is another."""
    import sys

    for name in [name for name in sys.modules if name == "ops" or name.startswith(("ops.", "models.ours"))]:
        del sys.modules[name]


def told(stderr: str) -> list[str]:
    """The problems, without the indent that makes them one message."""
    return [line.removeprefix("error: ").removeprefix("       ") for line in stderr.splitlines()]


def identify(wrong: Case) -> str:
    return " ".join(wrong.argv[len(DATA) if wrong.argv[: len(DATA)] == DATA else 0 :])


@pytest.mark.parametrize("wrong", WRONG, ids=identify)
def test_wrong_config(wrong: Case, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(list(wrong.argv)) == 2
    out, err = capsys.readouterr()
    assert told(err) == [line.replace("HERE", str(place)) for line in wrong.told]
    assert out == ""
    assert not (place / "outputs").exists() or identify(wrong) in RUN_BEFORE_REFUSED


# what only the data says is found when the job looks at it, after its directory was made
RUN_BEFORE_REFUSED = ("source=parquet source.path=nope mode=inline", "predict.columns=[passenger_coun]")


@pytest.mark.parametrize("wrong", [WRONG[0], WRONG[21], WRONG[-2]], ids=identify)
def test_wrong_config_as_a_process(wrong: Case, place: Path) -> None:
    done = runner(wrong.argv, place)
    assert done.returncode == 2
    assert told(done.stderr) == list(wrong.told)


def test_a_right_config_is_not_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DATA, "sink.path=out"]) == 0
    assert (place / "out" / "_SUCCESS").exists()
    assert "error" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("model: {beta: 5", "wrong.yaml"),
        ("defaults: [override /sink: excel]", "sink=excel: no such option (there are: "),
        ("defaults: 3", "Invalid defaults list in 'job/wrong', defaults must be a list (got int)"),
        (
            "defaults: [override /modle: x]",
            "job/wrong: defaults: override /modle: there is no such group (there are: source, model, mode, resources, errors, sink, job)",
        ),
        ("defaults: [/modle: x]", "job/wrong: modle=x: there is no group modle (there are: source, model, mode, "),
        (
            "defaults: [override mode: inline]",
            "job/wrong: defaults: override mode: means a group of job; write override /mode",
        ),
        (
            "defaults: [mode: inline]",
            "job/wrong: defaults: mode: inline means a file in job/mode/; write /mode: inline",
        ),
        ("batchsize: 3", "batchsize: no such key (did you mean batch_size?); variables of your own go below vars"),
        ("sink: out", "sink=out: expected a mapping, such as sink.name=value"),
    ],
)
def test_wrong_preset(content: str, said: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "conf/job/wrong.yaml").write_text(f"# @package _global_\n{content}\n")
    assert main([*DATA, "--config-dir", "conf", "job=wrong"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_hidden_option_of_another_repository(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "conf/mode").mkdir()
    (place / "conf/mode/tasks.yaml").write_text("max_in_flight: 3\n")
    assert main([*DATA, "--config-dir=conf"]) == 2
    assert told(capsys.readouterr().err) == [
        "conf/mode/tasks.yaml: is never read, since the built-in mode/tasks has that name; rename it"
    ]


def test_hidden_models(place: Path) -> None:
    (place / "models/__init__.py").write_text("")
    done = runner([*DATA], place)
    assert done.returncode == 2
    (line,) = told(done.stderr)
    assert line == (
        f"model._target_=models.taxi.load: module models has no taxi; {place}/models/__init__.py hides the built-in models: "
        "delete it, a folder of loaders needs none"
    )


def test_a_value_without_choice_chooses(place: Path) -> None:
    (place / "x.csv").write_text("a\n1\n2\n")
    assert (
        main(["source.path=x.csv", "mode=inline", "model._target_=ops.loaders.load", "model.alpha=2", "sink.path=out"])
        == 0
    )


def test_unquoted_path_is_quoted(place: Path) -> None:
    assert (
        main(["source=parquet", "source.path=days/dt=2026-11-21/*", "mode=inline", "sink.path=out/dt=2026-11-21"]) == 0
    )
    assert (place / "out/dt=2026-11-21/_SUCCESS").exists()


@pytest.mark.parametrize("given", ["override /source: csv", "override /modle: x"])
def test_a_preset_without_its_package_that_overrides_is_refused(
    given: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "conf/job/nopkg.yaml").write_text(f"defaults: [{given}]\nbatch_size: 3\n")
    assert main([*DATA, "--config-dir=conf", "job=nopkg"]) == 2
    assert told(capsys.readouterr().err) == [
        "job=nopkg: its first line must be `# @package _global_`; without it its keys land under job.* and do nothing"
    ]


@pytest.mark.parametrize("job", ["nopkg", "[nopkg,eager]", "[eager,nopkg]"])
def test_a_preset_without_its_package_is_refused(job: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "conf/job/nopkg.yaml").write_text("vars: {a: 1}\nbatch_size: 3\n")
    assert main([*DATA, "--config-dir=conf", f"job={job}"]) == 2
    assert told(capsys.readouterr().err) == [
        f"job={job}: its first line must be `# @package _global_`; without it its keys land under job.* and do nothing"
    ]


def test_an_unset_variable_is_no_path(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OUT", "")
    assert main([*DATA, "sink.path=${oc.env:OUT}"]) == 2
    assert told(capsys.readouterr().err) == ["sink.path='': expected a path or URI; is a variable unset?"]
    assert (place / "in").exists()


@pytest.mark.parametrize(
    "argv",
    [
        ("vars.place=out", "sink.path=${vars.place}/x"),
        ("+vars.place=out", "hydra.run.dir=${vars.place}"),
        ("vars.place=out", "-m", "sink.path=${vars.place}/a,${vars.place}/b"),
        ("--config-dir=conf", "-m", "job=daily", "vars.date=2026-11-21,2026-11-22"),
        ("--config-dir=conf", "-m", "job=daily,eager", "vars.date=2026-11-21"),
    ],
    ids=" ".join,
)
def test_a_variable_that_is_declared_or_used(argv: tuple[str, ...], place: Path) -> None:
    data = ("mode=inline",) if "--config-dir=conf" in argv else DATA
    assert main([*data, "action=plan", *argv]) == 0
    assert place.exists()


def test_the_name_of_an_option_is_a_part_of_a_path(place: Path) -> None:
    assert main([*DATA, "sink.path=out/${hydra:runtime.choices.mode}"]) == 0
    assert (place / "out/inline/_SUCCESS").exists()


def test_gpus_without_effect_are_a_note_in_a_sweep(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.exists()
    assert main([*DATA, "-m", "resources.num_gpus=0,1", "action=plan"]) == 0
    assert "note: resources.num_gpus=1: has no effect with mode=inline" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mode", "override", "effect"),
    [
        ("inline", "errors.shard_timeout=60", False),
        ("processes", "errors.shard_timeout=60", True),
        ("inline", "resources.memory=1000GiB", False),
        ("processes", "resources.memory=1000GiB", False),
        ("processes", "resources.resources={tpu: 1}", False),
        ("processes", "resources.scheduling_strategy=SPREAD", False),
    ],
)
def test_what_only_a_cluster_has_is_a_note_on_this_machine(
    mode: str, override: str, effect: bool, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The preset of a cluster can be debugged here."""
    assert place.exists()
    assert main([*DATA, f"mode={mode}", override, "sink.path=out"]) == 0
    assert (f": has no effect with mode={mode}" not in capsys.readouterr().err) == effect


@pytest.mark.parametrize(
    ("absent", "override", "said"),
    [
        ("joblib", "model=sklearn model.path=x.joblib", "model=sklearn needs joblib: pip install -c constraints.txt -e '.[sklearn]'"),
        ("skops", "model=sklearn model.path=x.skops", "model=sklearn needs skops: pip install -c constraints.txt -e '.[sklearn]'"),
        ("torch", "model=torch model.module=ops.Net", "model=torch needs torch: pip install -c constraints.txt -e '.[torch]'"),
        (
            "safetensors",
            "model=torch model.path=x.safetensors",
            "model=torch needs safetensors: pip install -c constraints.txt -e '.[torch]'",
        ),
    ],
)  # fmt: skip
def test_a_package_that_is_not_installed(
    absent: str,
    override: str,
    said: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from models import _imports

    assert place.exists()
    monkeypatch.setattr(_imports, "find_spec", lambda name: None if name == absent else object())
    assert main([*DATA, *override.split()]) == 2
    assert told(capsys.readouterr().err) == [f"{said} (in a checkout of this project)"]
    assert main([*DATA, *override.split(), "predict.load_on=worker", "action=plan"]) in (0, 2)
    assert said not in capsys.readouterr().err


NO_MODEL = "predict.columns (of model=taxi, since no model was chosen; choose one with model=...): there is no column 'passenger_count' in "


@pytest.mark.parametrize("more", [(), ("batch_size=0",), ("-m", "sink.path=o1,o2")], ids=str)
def test_own_data_without_a_model(more: tuple[str, ...], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo's model is the default, and asks for the demo's columns."""
    (place / "own.csv").write_text("age\n1\n")
    assert main(["source.path=own.csv", "mode=inline", *more]) == 2
    assert told(capsys.readouterr().err)[-1] == f"{NO_MODEL}{place}/own.csv; it has age"


@pytest.mark.parametrize("chosen", ["model=taxi", "model.payload_bytes=1", "job=classic_tasks"])
def test_own_data_with_the_demos_model(chosen: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "own.csv").write_text("age\n1\n")
    assert main(["source.path=own.csv", "mode=inline", chosen]) == 2
    assert NO_MODEL not in capsys.readouterr().err


def test_a_presets_own_loader_wins_over_a_chosen_option(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "conf/job/own.yaml").write_text("# @package _global_\nmodel: {_target_: models.ours.load}\n")
    assert main([*DATA, "--config-dir=conf", "job=own", "model=sklearn", "model.path=m.joblib"]) == 2
    (line,) = told(capsys.readouterr().err)
    assert line.startswith("model=sklearn, but model._target_=models.ours.load is set as well, which wins")


@pytest.mark.parametrize("version", [(), ("predict.version=two",)])
def test_every_field_that_is_recorded_can_be_accepted(version: tuple[str, ...], place: Path) -> None:
    command = [*DATA, *version, "sink.path=out"]
    assert main(command) == 0
    fields = json.loads((place / "out/_runner/recipe.json").read_text())["fields"]
    assert main([*command, f"sink.accept=[{','.join(fields)}]"]) == 0
