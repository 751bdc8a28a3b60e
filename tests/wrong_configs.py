"""What people get wrong, and what they are told: each command must end with 2 and exactly these lines.

Commands run where `in/x.parquet` (columns a, b, passenger_count) and a package `ops` lie; `HERE` stands for that folder.
"""

from __future__ import annotations

from typing import NamedTuple

from runner.config.options import CONF, options

DATA = ("source=parquet", "source.path=in", "mode=inline")
KEYS = (
    "source, model, mode, resources, errors, sink, job, action, num_actors, batch_size, shard_bytes, shard_rows, vars, predict, ray, plan, "
    "verify"
)
SOURCES, SINKS = (", ".join(file.stem for file in options(CONF / group)) for group in ("source", "sink"))
JOBS = "classic_actors, classic_gpu, classic_tasks, none, taxi_s3"
OPS = ("model._target_=ops.loaders.load",)


class Case(NamedTuple):
    """One command and all that it is told."""

    argv: tuple[str, ...]
    told: tuple[str, ...]


def case(argv: tuple[str, ...], *told: str) -> Case:
    """A command that needs everything of its own."""
    return Case(argv, told)


def data(override: str, *told: str) -> Case:
    """An override that is wrong beside a source that is right."""
    return Case((*DATA, *override.split(" ")), told)


WRONG: tuple[Case, ...] = (
    # ---- choices
    case(("mode=inlin",), "mode=inlin: no such option (did you mean inline?)"),
    data(
        "model=sklern",
        "model=sklern: no such option (did you mean sklearn?)",
        "model.path: is required; give model.path=<text>",
    ),
    data("sink=excel", f"sink=excel: no such option (there are: {SINKS})"),
    case(
        ("source=[a,b]",),
        f"source=a: no such option (there are: {SOURCES})",
        f"source=b: no such option (there are: {SOURCES})",
    ),
    case(("source=null",), f"source=null: expected an option (there are: {SOURCES})"),
    case(("mode=3",), "mode=3: expected an option (there are: actors, custom, inline, processes, tasks)"),
    case(("job=nightly",), f"job=nightly: no such option (there are: {JOBS})"),
    case(("+job=classic_task",), "job=classic_task: no such option (did you mean classic_tasks?)"),
    case(("job=[classic_tasks,foo]",), f"job=foo: no such option (there are: {JOBS})"),
    case(("-m", "mode=tasks,task"), "mode=task: no such option (did you mean tasks?)"),
    case(("-m", "mode=task,tasks"), "mode=task: no such option (did you mean tasks?)"),
    case(("hydra/launcher=foo",), "hydra/launcher=foo: no such option (there are: basic)"),
    # ---- keys
    data("batchsize=3", "batchsize: no such key (did you mean batch_size?); variables of your own go below vars"),
    data("foo.bar=3", f"foo.bar: no such key (there are: {KEYS}); variables of your own go below vars"),
    data("+foo=3", f"foo: no such key (there are: {KEYS}); variables of your own go below vars"),
    data("source.colums=[a]", "source.colums: no such key (did you mean columns?)"),
    data("predict.inputs=arrow", "predict.inputs: no such key (did you mean input?)"),
    data("ray.addres=local", "ray.addres: no such key (did you mean address?)"),
    data("resources.num_cpu=2", "resources.num_cpu: no such key (did you mean num_cpus?)"),
    data("hydra.foo=3", "hydra.foo: no such key (see --hydra-help)"),
    data(
        "model.path=m.joblib",
        "model.path: no such key (there are: payload_bytes); model=sklearn and model=torch have it",
    ),
    case(
        ("mode=actors", "mode.max_siz=3"),
        "mode.max_siz: no such key (did you mean max_size?)",
    ),
    data(
        " ".join((*OPS, "model.alhpa=1", "model.alpha=x", "model.path=[m]")),
        "model.alpha=x: expected a number",
        "model.path=[m]: expected text or null",
    ),
    # ---- values
    data("batch_size=0", "batch_size=0: expected a whole number >= 1"),
    data("batch_size=abc", "batch_size=abc: expected a whole number >= 1"),
    data("batch_size=2.5", "batch_size=2.5: expected a whole number >= 1"),
    data("batch_size=true", "batch_size=true: expected a whole number >= 1"),
    data(
        "shard_bytes=12parsecs",
        "shard_bytes=12parsecs: expected a size in bytes (134217728, 128MiB, 2GB), auto or null",
    ),
    data("resources.memory=lots", "resources.memory=lots: expected a size in bytes (134217728, 128MiB, 2GB) or null"),
    data("resources.num_gpus=-1", "resources.num_gpus=-1: expected a number >= 0"),
    data("resources.resources={big:x}", "resources.resources.big=x: expected a number >= 0"),
    data("errors.grace_period=nan", "errors.grace_period=nan: expected a number >= 0"),
    data("errors.max_retries=-1", "errors.max_retries=-1: expected a whole number >= 0"),
    data("errors.on_bad_rows=fial", "errors.on_bad_rows=fial: expected fail or quarantine (did you mean fail?)"),
    data(
        "sink.save_mode=resum",
        "sink.save_mode=resum: expected resume, append, overwrite or error (did you mean resume?)",
    ),
    data("sink.keep_columns=al", "sink.keep_columns=al: expected a list or all (did you mean all?)"),
    data(
        "sink.accept=[model.cod]",
        "sink.accept: there is no field 'model.cod' of the fingerprint (did you mean model.code?)",
    ),
    data(
        "sink.accept=[batch_size,weights]",
        "sink.accept: there is no field 'weights' of the fingerprint (there are: model, model.arguments, model.code, "
        "predict.version, predict.input, predict.columns, predict.rename, predict.output_schema, batch_size, source.filters, source.code, "
        "source.format, source.columns, source.partitioning, "
        "sink.format, sink.keep_columns, sink.layout, sink.compression)",
    ),
    data("sink.layout=[flat]", "sink.layout=[flat]: expected flat or like_source"),
    data("predict.input=spark", "predict.input=spark: expected pandas, arrow, numpy or torch"),
    data("predict.columns=a", "predict.columns=a: expected a list or null"),
    data("predict.columns=[a,[b]]", "predict.columns[1]=[b]: expected text"),
    data(
        "predict.version=1.10",
        "predict.version=1.1: expected text or null; quote what only looks like a number: predict.version='\"...\"'",
    ),
    data("action=rum", "action=rum: expected run, plan or verify (did you mean run?)"),
    data("vars=3", "vars=3: expected a mapping, such as vars.name=value"),
    data("predict=3", "predict=3: expected a mapping, such as predict.name=value"),
    data(
        "predict.output_schema={a:dubble}",
        "predict.output_schema.a: 'dubble' is not a type; expected one such as bool, int64, float, double, string, binary, "
        "date32, timestamp[us], decimal(10, 2), list<double> or list<float>[384]",
    ),
    # ---- what must be given
    case(("source=parquet", "mode=inline"), "source.path: is required; give source.path=<text or a list>"),
    data("~source.path", "source.path: is required; give source.path=<text or a list>"),
    data("~sink", "sink._target_: is required; give sink._target_=pkg.module.name, or choose a built-in: sink=..."),
    data(
        "model=custom",
        "model._target_: is required; give model._target_=pkg.module.name, or choose a built-in: model=...",
    ),
    data("vars.date=??? sink.path=out/${vars.date}", "vars.date: is required; give vars.date=<text>"),
    data("sink.path=out/${vars.date}", "sink.path=out/${vars.date}: there is no vars.date; give vars.date=..."),
    data("sink.path=${oc.env:NOT_SET}", "sink.path=${oc.env:NOT_SET}: the environment variable NOT_SET is not set"),
    data("sink.path=", "sink.path='': expected a path or URI; is a variable unset?"),
    data("source.path=", "source.path='': expected a path or URI; is a variable unset?"),
    data(
        "sink.path=out/${mode}",
        "sink.path=out/${mode}: ${mode} is a mapping, which is no part of a text; "
        "the option's name is ${hydra:runtime.choices.mode}",
    ),
    data(
        "sink.path=out/${predict.columns}",
        "sink.path=out/${predict.columns}: ${predict.columns} is a list, which is no part of a text; name one of its values",
    ),
    data("vars.dte=2", "vars.dte: no such variable"),
    case(
        ("--config-dir=conf", "job=daily", "mode=inline", "vars.date=2026-11-21", "vars.dte=2"),
        "vars.dte: no such variable (did you mean vars.date?)",
    ),
    data("model=torch", "model=torch: model.path, model.module or both are required"),
    # ---- what belongs together
    data(
        "resources=gpu",
        "resources.num_gpus=1: has no effect with mode=inline; take mode=tasks or mode=actors, or 0",
    ),
    case(
        ("mode=processes", "resources.num_gpus=0.5"),
        "resources.num_gpus=0.5: has no effect with mode=processes; take mode=tasks or mode=actors, or 0",
    ),
    *(
        data(f"errors.max_bad_rows={value}", f"errors.max_bad_rows={value}: expected a count (5) or a fraction (0.01)")
        for value in ("-1", "1.5", "2.0", "-0.1", "few", "true")
    ),
    data("sink.path=nope://bucket/x", "sink.path=nope://bucket/x: Protocol not known: nope"),
    data("source.path=nope://bucket/x", "source.path=nope://bucket/x: Protocol not known: nope"),
    data("num_actors=3", "num_actors=3: has no effect with mode=inline; take mode=actors, or leave num_actors out"),
    case(
        ("mode=actors", "num_actors=3", "mode.size=2"),
        "num_actors=3: has no effect beside mode.size=2; give one of them",
    ),
    case(
        ("mode=actors", "mode.min_size=3", "mode.max_size=2"),
        "mode.min_size=3: is more than mode.max_size=2",
    ),
    case(
        ("mode=actors", "num_actors=3", "mode.max_size=2"),
        "num_actors=3: is a fixed size, which makes no sense beside mode.max_size; give one or the other",
    ),
    case(
        ("mode=actors", "mode.size=3", "mode.min_size=1", "mode.max_size=2"),
        "mode.size=3: is a fixed size, which makes no sense beside mode.min_size and mode.max_size; give one or the other",
    ),
    data("predict.columns=[]", "predict.columns=[]: expected at least one column, or null for all"),
    data("sink.keep_columns=[a,a]", "sink.keep_columns: a is there twice"),
    data(
        "model=torch model.module=collections.OrderedDict model.columns=[a,bb] predict.columns=[a,b]",
        "model.columns: bb is not among predict.columns (did you mean b?)",
    ),
    data(
        "sink.path=in/out",
        "sink.path=in/out: lies in source.path=in, so the parts would be input the next time; write elsewhere",
    ),
    case(("mode=inline", "source.format=csv"), "source.path: is required with source.format=csv"),
    # ---- targets
    data(
        "model._target_=nowhere.load",
        "model._target_=nowhere.load: there is no module nowhere (looked in HERE and the installed packages)",
    ),
    data(
        "model._target_=ops.loaders.laod",
        "model._target_=ops.loaders.laod: module ops.loaders has no laod (did you mean load?)",
    ),
    data(
        "model._target_=ops.loaders",
        "model._target_=ops.loaders: is a module, not something to call (there are: load, predict)",
    ),
    data(
        "model._target_=ops.loaders.__doc__",
        "model._target_=ops.loaders.__doc__: is a NoneType, not something to call",
    ),
    data(
        "model._target_=ops.loaders.load.__code__.co_argcount",
        "model._target_=ops.loaders.load.__code__.co_argcount: is an int, not something to call",
    ),
    data(
        "model._target_=ops.needy.load",
        "model._target_=ops.needy.load: ops.needy needs the package not_installed_anywhere, which is not installed",
    ),
    data(
        "model._target_=ops.broken.load",
        "model._target_=ops.broken.load: ops.broken does not parse: invalid syntax (HERE/ops/broken.py, line 1)",
    ),
    data(
        "model._target_=ops.raising.load",
        "model._target_=ops.raising.load: importing ops.raising fails: RuntimeError: no licence",
    ),
    data("model._target_=../x", "model._target_=../x: is not a dotted path; expected one such as package.module.name"),
    data(
        "sink._target_=ops.loaders.load sink.alpha=1",
        "sink._target_=ops.loaders.load: made a function, which is no sink: "
        "a sink inherits from runner.types.Sink and defines committed, examine, records, remove, settings, write",
    ),
    data(
        "model=torch model._target_=models.ours.load model.beta=x",
        "model=torch, but model._target_=models.ours.load is set as well, which wins and does not take the option's keys; "
        "leave out one of them (with a loader of your own: model=custom)",
        "model.beta=x: expected a whole number",
    ),
    data(
        "model._target_=ops.loaders.predict",
        "model._target_=ops.loaders.predict: looks like a function that predicts (batch -> predictions); "
        "a loader is a function that returns such a function: def load(): return predict",
    ),
    # ---- data
    case(
        ("source=parquet", "source.path=nope", "mode=inline"),
        "source.path=nope: no files match; HERE exists, what should be below it does not "
        "(source.allow_empty=true makes an empty input a success)",
    ),
    data(
        "predict.columns=[passenger_coun]",
        "predict.columns: there is no column 'passenger_coun' in HERE/in/x.parquet (did you mean 'passenger_count'?); "
        "it has a, b, passenger_count",
    ),
    # ---- what Hydra cannot read
    data(
        "source.filters=[[a,>,3]]",
        "source.filters=[[a,>,3]]: Hydra cannot read this value; quote it: 'source.filters=[[a,\">\",3]]'",
    ),
    case(("source.path=a=b,c",), "source.path=a=b,c: Hydra cannot read this value; quote it: 'source.path=\"a=b,c\"'"),
    data("batch_size", "batch_size: expected key=value"),
    data("=3", "=3: expected key=value"),
    data(
        "batch_size=1,2",
        "batch_size=1,2: several values; add -m for a sweep, or give a list as 'batch_size=[1,2]', or one text as 'batch_size=\"1,2\"'",
    ),
    data("batch_size=range(1,3)", "batch_size=range(1,3): is a sweep; add -m"),
    # ---- flags
    case(("--config-dir=nope",), "--config-dir=nope: there is no such folder"),
    case(
        ("--config-name=nope",),
        "--config-name=nope: there is no such config; --config-dir names the folder that it is in",
    ),
    case(("--config-path=conf",), "--config-path=conf: would hide the built-in groups; use --config-dir"),
    case(("--mulitrun",), "unrecognized arguments: --mulitrun; python -m runner --help lists what there is"),
    # ---- credentials
    data(
        "sink.storage_options.secret=abc",
        "sink.storage_options.secret: a credential does not belong in a config; give ${oc.env:NAME} and set NAME in the environment",
    ),
    data(
        "sink.path=sftp://me:abc@host/out",
        "sink.path: a credential does not belong in a config; give ${oc.env:NAME} and set NAME in the environment",
        "sink.path=***: a path with a password in it would be recorded; give it in sink.storage_options",
    ),
    # ---- all together
    case(
        (
            "mode=inlin",
            "batchsize=3",
            "batch_size=0",
            "source=parquet",
            "source.path=a=b,c",
            "sink.save_mode=resum",
            "model.alpha=1",
        ),
        "mode=inlin: no such option (did you mean inline?)",
        "batchsize: no such key (did you mean batch_size?); variables of your own go below vars",
        "source.path=a=b,c: Hydra cannot read this value; quote it: 'source.path=\"a=b,c\"'",
        "batch_size=0: expected a whole number >= 1",
        "sink.save_mode=resum: expected resume, append, overwrite or error (did you mean resume?)",
        "model.alpha: no such key (there are: payload_bytes)",
    ),
    data(
        "predict.columns=[z] batch_size=0",
        "batch_size=0: expected a whole number >= 1",
        "predict.columns: there is no column 'z' in HERE/in/x.parquet; it has a, b, passenger_count",
    ),
)
