"""Bad rows do not cost good ones: quarantine, its budget, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runs, in_every_mode
from hypothesis import given
from hypothesis import strategies as st
from test_job import digests, job, manifest, predicted, write_input

from runner import ConfigError, JobFailed, SinkRefused, run
from runner.__main__ import main
from runner.arrow.isolate import Failed, Good, Guilty, Tried, isolate
from runner.errors import TooManyBadRows
from runner.ledger.quarantine import Budget
from runner.sources.reader import FilesReader

BAD = {3, 4, 40, 77}


def quarantine_job(tmp_path: Path, loader: str = "poisoned", /, **more: Any) -> dict[str, Any]:
    given = {"model.values": sorted(BAD)} if loader == "poisoned" else {}
    return job(tmp_path, loader, errors="quarantine", **{"errors.max_bad_rows": 10, **given, **more})


def quarantined(tmp_path: Path) -> pa.Table:
    files = sorted((tmp_path / "out/_runner/quarantine").glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files])


@in_every_mode
def test_good_rows_stay_in_place_and_bad_ones_are_kept_whole(crew: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    report = crew(quarantine_job(tmp_path, **{"predict.columns": ["x"]}))
    assert predicted(tmp_path) == [2 * x for x in range(100) if x not in BAD]
    assert (report.rows_in, report.rows_out, report.rows_quarantined) == (100, 96, 4)
    rows = quarantined(tmp_path).to_pylist()
    assert [row["x"] for row in rows] == sorted(BAD)
    assert [row["id"] for row in rows] == [f"row {x}" for x in sorted(BAD)], (
        "the columns that the model does not need are there too"
    )
    assert [(Path(row["_source"]).name, row["_row"]) for row in rows] == [
        ("000.parquet", 3), ("000.parquet", 4), ("001.parquet", 15), ("003.parquet", 2)
    ]  # fmt: skip
    assert {row["_error_type"] for row in rows} == {"ArithmeticError"}
    assert rows[0]["_error"] == "cannot predict 3"
    assert "quarantined: " in report.notes[0]


def test_kept_columns_follow_their_predictions(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(quarantine_job(tmp_path, **{"sink.keep_columns": ["id"]}))
    assert predicted(tmp_path, "id") == [f"row {x}" for x in range(100) if x not in BAD]


def test_the_manifest_accounts_for_every_row(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(quarantine_job(tmp_path))
    before = manifest(tmp_path)
    assert (before["rows_in"], before["rows_out"], before["rows_quarantined"]) == (100, 96, 4)
    for receipts in (tmp_path / "out/_runner/runs").rglob("receipts-*"):
        receipts.unlink()
    (tmp_path / "out/_SUCCESS").unlink()
    executor(quarantine_job(tmp_path))
    assert manifest(tmp_path) == before


def test_rows_are_numbered_as_in_the_file_whatever_the_filter(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(quarantine_job(tmp_path, **{"source.filters": [["x", ">", 20]]}))
    assert [row["_row"] for row in quarantined(tmp_path).to_pylist()] == [15, 2]


def test_a_quarantine_is_a_source_for_a_later_run(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(quarantine_job(tmp_path))
    again = job(
        tmp_path, **{"source.path": str(tmp_path / "out/_runner/quarantine"), "sink.path": str(tmp_path / "mended")}
    )
    executor({**again, "predict.columns": ["x"], "sink.keep_columns": ["_source", "_row"]})
    mended = [
        value
        for part in sorted((tmp_path / "mended").glob("part-*"))
        for value in pq.read_table(part)["twice"].to_pylist()
    ]
    assert mended == [2 * x for x in sorted(BAD)]


def test_a_row_that_fails_again_keeps_the_place_it_came_from(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    config = {**quarantine_job(tmp_path), "mode": "inline"}
    run(config)
    again = {"source.path": str(tmp_path / "out/_runner/quarantine"), "sink.path": str(tmp_path / "again")}
    run({**config, **again, "errors.max_bad_rows": 9, "predict.columns": ["x"], "model.values": [min(BAD)]})
    [first] = pq.read_table(tmp_path / "again/_runner/quarantine").to_pylist()
    [was] = [row for row in quarantined(tmp_path).to_pylist() if row["x"] == min(BAD)]
    assert first == was


def test_columns_of_the_inputs_own_are_kept_beside_ours(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"x": [1, min(BAD)], "_row": ["a", "b"]}), tmp_path / "in/0.parquet")
    run({**quarantine_job(tmp_path), "mode": "inline", "predict.columns": ["x"]})
    [row] = quarantined(tmp_path).to_pylist()
    assert (row["input_row"], row["_row"]) == ("b", 1)


def test_strict_names_the_first_and_quarantine_continues_from_there(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(JobFailed, match=r"row \d+: ArithmeticError: cannot predict"):
        executor({**quarantine_job(tmp_path), "errors": "strict"})
    assert executor(quarantine_job(tmp_path)).status == "complete"
    assert predicted(tmp_path) == [2 * x for x in range(100) if x not in BAD]


def test_what_was_put_aside_does_not_pass_for_predicted_under_strict(tmp_path: Path) -> None:
    """A refused quarantine, then the same command without `errors=quarantine`: rows without a prediction are no success."""
    write_input(tmp_path / "in")
    with pytest.raises(
        TooManyBadRows, match=r"4 of 100 rows are bad; .* allows 0.03 of the rows seen, which is 3: "
    ) as too_many:
        run(quarantine_job(tmp_path, mode="inline", **{"errors.max_bad_rows": 0.03}))
    assert too_many.value.report.next_command is None
    strict = {**quarantine_job(tmp_path, mode="inline"), "errors": "strict"}
    with pytest.raises(
        TooManyBadRows, match=r"have put 4 rows aside in \S+/_runner/quarantine/; run it with errors=quar"
    ):
        run(strict)
    assert not (tmp_path / "out/_SUCCESS").exists()
    assert run(quarantine_job(tmp_path, mode="inline")).status == "complete"
    assert run(strict).status == "complete"
    (tmp_path / "out/_SUCCESS").unlink()  # as while something is appended
    assert run(strict).status == "complete"


def test_a_count_of_bad_rows_stops_the_job_and_names_the_first(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(
        JobFailed, match=r"errors\.max_bad_rows=3 allows 3: \S+\.parquet row \d+: ArithmeticError: cannot"
    ):
        executor(quarantine_job(tmp_path, **{"errors.max_bad_rows": 3}))
    assert not (tmp_path / "out/_SUCCESS").exists()
    report = executor(quarantine_job(tmp_path, **{"errors.max_bad_rows": 4}))
    assert report.status == "complete"


def test_a_fraction_is_checked_at_the_end(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(
        JobFailed, match=r"4 of 100 rows are bad; errors\.max_bad_rows=0\.03 allows 0\.03 of the rows seen"
    ):
        executor(quarantine_job(tmp_path, **{"errors.max_bad_rows": 0.03}))
    with pytest.raises(
        JobFailed, match=r"4 of 100 rows .*they are in .*/_runner/quarantine/; allow more, or mend the model"
    ):
        executor(quarantine_job(tmp_path, **{"errors.max_bad_rows": 0.03}))
    assert executor(quarantine_job(tmp_path, **{"errors.max_bad_rows": 0.04})).status == "complete"


def test_a_prediction_that_does_not_fit_the_schema_is_a_bad_row(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=1)
    executor(quarantine_job(tmp_path, "odd", **{"predict.output_schema": {"y": "int64"}}))
    assert predicted(tmp_path, "y") == [x for x in range(25) if x != 11]
    assert [row["x"] for row in quarantined(tmp_path).to_pylist()] == [11]


def test_a_batch_of_nothing_but_bad_rows(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=2)
    bad = list(range(25))
    executor(quarantine_job(tmp_path, **{"model.values": bad, "errors.max_bad_rows": 25}))
    assert predicted(tmp_path) == [2 * x for x in range(25, 50)]
    assert quarantined(tmp_path).num_rows == 25


def test_a_broken_model_is_not_a_matter_of_rows(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(JobFailed, match="returned 9 predictions for a batch of 10 rows"):
        executor(quarantine_job(tmp_path, "short"))


def test_leaving_the_process_is_a_bad_row(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=1)
    executor(quarantine_job(tmp_path, "leaving", **{"model.value": 12}))
    assert predicted(tmp_path) == [2 * x for x in range(25) if x != 12]
    assert "sys.exit(0)" in quarantined(tmp_path).to_pylist()[0]["_error"]


def test_the_policy_is_not_in_the_fingerprint(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path))
    before = digests(tmp_path)
    try:
        executor({**job(tmp_path), "errors": "quarantine"})
    except SinkRefused as refused:  # pragma: no cover
        pytest.fail(str(refused))
    assert digests(tmp_path) == before


@given(st.integers(1, 200), st.sets(st.integers(0, 199)))
def test_bisection_finds_exactly_the_guilty_and_keeps_the_order(rows: int, guilty: set[int]) -> None:
    def attempt(start: int, end: int) -> list[Tried]:
        tried.append((start, end))
        return [Failed(start, end, ValueError())] if guilty & set(range(start, end)) else [Good(start, end, None)]

    tried: list[tuple[int, int]] = []
    found = list(isolate(0, rows, attempt))
    assert [each.row for each in found if isinstance(each, Guilty)] == sorted(guilty & set(range(rows)))
    spans = [(each.start, each.end) if isinstance(each, Good) else (each.row, each.row + 1) for each in found]
    assert [row for start, end in spans for row in range(start, end)] == list(range(rows))
    assert len(tried) == len(set(tried)), "nothing is tried twice"


@given(st.integers(0, 50), st.integers(0, 10**6), st.integers(0, 50))
def test_a_count_is_a_count(limit: int, seen: int, bad: int) -> None:
    assert Budget(limit).passed(bad, seen) == (bad > limit)


def test_a_fraction_waits_for_ten_thousand_rows() -> None:
    assert not Budget(0.01).passed(100, 100)
    assert Budget(0.01).passed(101, 100)
    assert Budget(0.01).passed(2, 100, final=True)
    assert not Budget(0.01).passed(500, 50_000)
    assert Budget(0.01).passed(501, 50_000)


# ---------------------------------------------------------------- rows that cannot even be parsed

TEXTS = {
    "csv": "x,id\n0,a\n1,b\noops,c\n" + "".join(f"{i},d\n" for i in range(3, 30)) + "30\n31,e,f\n32,g\n",
    "jsonl": '{"x": 0}\n{"x": 1}\n{"x": "a"}\n'
    + "".join(f'{{"x": {i}}}\n' for i in range(3, 30))
    + '{"x":\n[1]\n{"x": 32}\n',
}
UNREADABLE = {2, 30, 31}


def text_job(tmp_path: Path, kind: str, **more: Any) -> dict[str, Any]:
    if not (tmp_path / "in").exists():
        (tmp_path / "in").mkdir()
        (tmp_path / f"in/a.{kind}").write_text(TEXTS[kind])
    types = {"source": kind, "source.column_types": {"x": "int64"}, "predict.columns": ["x"], "model.values": [4]}
    return quarantine_job(tmp_path, **{**types, **more})


@pytest.mark.parametrize("kind", TEXTS)
def test_a_row_that_cannot_be_parsed_is_a_bad_row_like_any_other(executor: Runs, tmp_path: Path, kind: str) -> None:
    report = executor(text_job(tmp_path, kind))
    assert predicted(tmp_path) == [2 * x for x in range(33) if x not in {*UNREADABLE, 4}]
    assert (report.rows_in, report.rows_out, report.rows_quarantined) == (33, 29, 4)
    rows = quarantined(tmp_path).to_pylist()
    assert [(row["_row"], row["x"]) for row in rows] == [(2, None), (4, 4), (30, None), (31, None)]
    lines = TEXTS[kind].splitlines()[kind == "csv" :]
    assert [row["_raw"] for row in rows] == [lines[2], None, lines[30], lines[31]]
    assert rows[0]["_error"].startswith(f"line {3 + (kind == 'csv')}: ")
    assert {row["_error_type"] for row in rows} == {"UnreadableRow", "ArithmeticError"}
    assert executor({**text_job(tmp_path, kind), "action": "verify", "verify.deep": True}) is not None


def test_the_proof_counts_rows_that_cannot_be_parsed_whatever_the_policy(tmp_path: Path) -> None:
    run({**text_job(tmp_path, "csv"), "mode": "inline"})
    argv = [
        "source=csv",
        f"source.path={tmp_path}/in",
        "source.column_types={x: int64}",
        "predict.columns=[x]",
        "batch_size=10",
    ]
    argv += ["model=custom", "model._target_=predictors.poisoned", "model.values=[4]", f"sink.path={tmp_path}/out"]
    for policy in ("quarantine", "strict"):
        assert main([*argv, f"errors={policy}", "action=verify", "verify.deep=true"]) == 0


def test_rows_are_numbered_past_those_that_cannot_be_parsed_whatever_the_filter(tmp_path: Path) -> None:
    report = run(
        {**text_job(tmp_path, "csv"), "mode": "inline", "source.filters": [["x", ">", 3]], "model.values": [32]}
    )
    assert [row["_row"] for row in quarantined(tmp_path).to_pylist()] == [*sorted(UNREADABLE), 32]
    assert (report.rows_in, report.rows_out) == (30, 26)


def test_rows_that_cannot_be_parsed_count_in_the_same_budget(tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match=r"allows 3: \S+a\.csv line 4: column 'x'"):
        run({**text_job(tmp_path, "csv"), "mode": "inline", "errors.max_bad_rows": 3})
    with pytest.raises(JobFailed, match=r"3 of \d+ rows are bad; .*a\.csv line 4: column 'x'"):
        run({**text_job(tmp_path, "csv"), "mode": "inline", "errors.max_bad_rows": 2, "sink.path": "two"})
    assert (
        run({**text_job(tmp_path, "csv"), "mode": "inline", "errors.max_bad_rows": 4, "sink.path": "4"}).status
        == "complete"
    )


def test_a_quarantine_of_rows_that_could_not_be_parsed_is_a_source(tmp_path: Path) -> None:
    config = {**text_job(tmp_path, "csv"), "mode": "inline"}
    run(config)
    again = {"source": "parquet", "source.path": str(tmp_path / "out/_runner/quarantine"), "source.column_types": {}}
    run({**config, **again, "sink.path": str(tmp_path / "again"), "sink.keep_columns": ["_row", "_raw"]})
    [was, again_there] = (
        pq.read_table(tmp_path / f"{name}/_runner/quarantine").to_pylist() for name in ("out", "again")
    )
    assert [row for row in was if row["x"] == 4] == again_there


# ---------------------------------------------------------------- whatever the other columns hold

ODD = {
    "types": [pa.array([1]), pa.array(["a"])],
    "dictionaries": [pa.array(["a"]).dictionary_encode(), pa.array(["b"]).dictionary_encode()],
    "a dictionary and a string": [pa.array(["a"]).dictionary_encode(), pa.array(["b"])],
    "a dictionary of numbers": [pa.array([1]).dictionary_encode(), pa.array(["b"]).dictionary_encode()],
    "lists": [pa.array([[1]]), pa.array([["a"]])],
    "structs": [pa.array([{"a": 1}]), pa.array([{"a": "b"}])],
    "a number and a struct": [pa.array([1]), pa.array([{"a": b"b"}])],
    "times": [pa.array([1], pa.timestamp("s", "UTC")), pa.array([1], pa.timestamp("s"))],
    "bytes": [pa.array([b"\xff"]), pa.array([1.5])],
    "numbers that do not fit": [pa.array([2**60 + 1]), pa.array([1.5])],
    "nulls": [pa.nulls(1), pa.array([1])],
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_files_of_one_shard_whose_other_columns_differ(tmp_path: Path, odd: str) -> None:
    (tmp_path / "in").mkdir()
    for i, values in enumerate(ODD[odd]):
        pq.write_table(pa.table({"x": [min(BAD)], "odd": values}), tmp_path / f"in/{i}.parquet")
    config = {**quarantine_job(tmp_path), "mode": "inline", "predict.columns": ["x"], "shard_bytes": 10**6}
    run({**config, "predict.output_schema": {"twice": "int64"}})
    assert [row["_row"] for row in quarantined(tmp_path).to_pylist()] == [0, 0]
    assert all(len(row) == 7 for row in quarantined(tmp_path).to_pylist())


@pytest.mark.parametrize(
    "names", [["_source", "input_source"], ["input_row", "_row", "input_row_2"], ["_raw", "_error"]], ids=str
)
def test_columns_that_have_our_names_and_the_names_we_would_give_them(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "in").mkdir()
    own = {name: [f"own {name}"] for name in names}
    pq.write_table(pa.table({"x": [min(BAD)], **own}), tmp_path / "in/0.parquet")
    run(
        {
            **quarantine_job(tmp_path),
            "mode": "inline",
            "predict.columns": ["x"],
            "predict.output_schema": {"twice": "int64"},
        }
    )
    [row] = quarantined(tmp_path).to_pylist()
    assert row["_row"] == 0
    assert {f"own {name}" for name in names} <= set(row.values())


@pytest.mark.parametrize(
    "values",
    [
        pa.array([2**62], pa.timestamp("s")),
        pa.array([(1, 2, 3)], pa.month_day_nano_interval()),
        pa.UnionArray.from_dense(pa.array([0], pa.int8()), pa.array([0], pa.int32()), [pa.array([1])]),
        pa.RunEndEncodedArray.from_arrays([1], [7]),
        pa.array([{}], pa.struct([])),
    ],
    ids=lambda values: str(values.type),
)
def test_what_parquet_cannot_hold_is_put_aside_as_text(tmp_path: Path, values: pa.Array) -> None:
    (tmp_path / "in").mkdir()
    table = pa.table({"x": [min(BAD)], "odd": values})
    with pa.ipc.new_file(tmp_path / "in/0.arrow", table.schema) as file:
        file.write(table)
    config = {**quarantine_job(tmp_path), "source": "arrow", "mode": "inline", "predict.columns": ["x"]}
    run({**config, "predict.output_schema": {"twice": "int64"}})
    [row] = quarantined(tmp_path).to_pylist()
    assert row["x"] == min(BAD)
    assert row["odd"] is not None


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_another_column_that_is_not_what_the_first_block_told(tmp_path: Path, kind: str) -> None:
    """The row is kept as it stands in the file, since its columns cannot be typed."""
    (tmp_path / "in").mkdir()
    rows = {"csv": "x,n\n" + "1,2\n" * 50, "jsonl": '{"x": 1, "n": {"a": 1}}\n' * 50}[kind]
    last = {"csv": "3,oops", "jsonl": '{"x": 3, "n": "oops"}'}[kind]
    (tmp_path / f"in/a.{kind}").write_text(f"{rows}{last}\n")
    config = {**quarantine_job(tmp_path), "source": kind, "mode": "inline", "predict.columns": ["x"]}
    from runner.sources import text

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "BLOCK_BYTES", 100)
        run(config)
    [row] = quarantined(tmp_path).to_pylist()
    assert (row["x"], row["_row"], row["_raw"]) == (3, 50, last)


@pytest.mark.slow
@pytest.mark.parametrize("filters", [None, [["x", ">=", 100]]])
def test_the_places_of_bad_rows_are_found_in_one_pass_over_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filters: Any
) -> None:
    rows = [f"{i},n{i}" if i % 50 else f"{i}" for i in range(1000)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("\n".join(["x,name", *rows]) + "\n")
    passes: list[Any] = []
    positions = FilesReader.positions

    def counted(self: FilesReader, fragment: Any) -> Any:
        passes.append(fragment)
        return positions(self, fragment)

    monkeypatch.setattr(FilesReader, "positions", counted)
    job = {
        "source": "csv",
        "source.path": str(tmp_path / "in"),
        "source.filters": filters,
        "sink.path": str(tmp_path / "out"),
    }
    more = {
        "mode": "inline",
        "batch_size": 100,
        "errors": "quarantine",
        "errors.max_bad_rows": 0.9,
        "shard_bytes": None,
    }
    run({**job, **more}, model=odd_rows_fail)
    bad = quarantined(tmp_path).to_pandas()
    first = 100 if filters else 0
    assert bad[bad["x"].notna()]["_row"].tolist() == [i for i in range(first, 1000) if i % 2 and i % 50]
    assert (bad["x"].dropna() == bad[bad["x"].notna()]["_row"]).all()
    assert len(passes) <= 2  # the first batch is predicted by a call of its own


def odd_rows_fail(batch: Any) -> Any:
    if (batch["x"] % 2 == 1).any():
        raise ValueError("odd")
    return batch["x"] * 2


def test_a_text_among_the_first_numbers_of_json_lines_is_a_bad_row_once_the_type_is_given(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_text('{"x": 0.5}\n{"x": "abc"}\n{"x": 2.5}\n')
    job = {"source": "jsonl", "source.path": str(tmp_path / "in"), "sink.path": str(tmp_path / "out"), "mode": "inline"}
    tolerant = {**job, "errors": "quarantine", "errors.max_bad_rows": 1}
    with pytest.raises(ConfigError, match=r"changed from number to string in row 1 .*source\.column_types"):
        run(tolerant, model=odd_rows_fail)
    assert run({**tolerant, "source.column_types": {"x": "double"}}, model=odd_rows_fail).rows_out == 2
    assert quarantined(tmp_path).column("_row").to_pylist() == [1]
