"""`action=verify`: the proof, and each way in which it fails."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_job import digests, job, manifest, parts, write_input

from runner import run
from runner.__main__ import main


def command(tmp_path: Path, *more: str) -> list[str]:
    given = [
        "mode=inline",
        "source=parquet",
        f"source.path={tmp_path / 'in'}",
        "model=custom",
        "model._target_=predictors.poisoned",
    ]
    rows = ["model.values=[3,40]", "errors=quarantine", "errors.max_bad_rows=5", "batch_size=10", "shard_bytes=null"]
    return [*given, *rows, f"sink.path={tmp_path / 'out'}", *more]


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """A complete job of four parts with two rows in quarantine."""
    write_input(tmp_path / "in")
    assert main(command(tmp_path)) == 0
    return tmp_path


def verified(tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(command(tmp_path, "action=verify", *more))
    return code, capsys.readouterr().out


def flip_a_byte(out: Path) -> str:
    part = sorted(out.glob("part-*"))[2]
    content = bytearray(part.read_bytes())
    content[20] ^= 255
    part.write_bytes(content)
    return f"{part.name}: is not what was committed: the same size, but another checksum"


@pytest.mark.parametrize("harm", ["truncate_a_part", "swap_a_part", "flip_a_byte", "delete_a_quarantine"])
def test_what_it_names_can_be_deleted_and_is_predicted_anew(
    done: Path, capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    before = digests(done)
    globals()[harm](done / "out")
    code, told = verified(done, capsys)
    assert code == 1
    named = re.findall(r"(part-\S+): .*delete the part and run the job again", told)
    assert named
    for name in named:
        (done / "out" / name).unlink()
    assert main(command(done)) == 0
    assert verified(done, capsys)[0] == 0
    assert digests(done) == before


def test_a_part_that_was_cut_off_is_found_before_the_end_is_declared(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("_SUCCESS", "_runner/manifest.json"):
        (done / "out" / name).unlink()
    truncate_a_part(done / "out")
    assert main(command(done)) == 1
    told = capsys.readouterr().err
    assert re.search(
        r"part-00000001-\S+ \([\d,]+ bytes, [\d,]+ were committed\); delete it and run the job again", told
    )
    assert not (done / "out/_SUCCESS").exists()


# ---------------------------------------------------------------- a part that is not what its receipt says


def not_finished(done: Path) -> None:
    for name in ("_SUCCESS", "_runner/manifest.json"):
        (done / "out" / name).unlink()


def write_rows(part: Path, rows: int) -> None:
    pq.write_table(pq.read_table(part).slice(0, rows), part)


def empty(part: Path) -> None:
    part.write_bytes(b"")


@pytest.mark.parametrize("harm", [lambda part: write_rows(part, 7), empty], ids=["fewer rows", "no byte"])
def test_a_part_that_its_receipt_contradicts_is_named_before_anything_is_predicted(
    done: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], None]
) -> None:
    before = digests(done)
    not_finished(done)
    harm(part := parts(done)[2])
    parts(done)[3].unlink()
    capsys.readouterr()
    assert main(command(done)) == 1
    told = capsys.readouterr().err
    assert part.name in told
    assert "were committed" in told
    assert len(parts(done)) == 3, "it went on"
    part.unlink()
    assert main(command(done)) == 0
    assert digests(done) == before


def test_a_part_that_was_done_twice_is_what_one_of_its_receipts_says(done: Path) -> None:
    """A model that depends on time: the later try's part may have been overtaken by the earlier one's."""
    not_finished(done)
    [receipts] = (done / "out").rglob("receipts-*")
    other = [json.loads(line) for line in receipts.read_text().splitlines()]
    later = [json.dumps({**line, "bytes_out": line["bytes_out"] + 1, "checksum": "sha256:other"}) for line in other]
    receipts.write_text(receipts.read_text() + "\n".join(later))
    assert main(command(done)) == 0
    assert {part["bytes"] for part in manifest(done)["parts"]} == {line["bytes_out"] for line in other}


@pytest.mark.parametrize(("rows", "more"), [(7, []), (26, ["source.filters=[[x,'>=',0]]"])])
def test_a_part_without_a_receipt_must_have_the_rows_that_were_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: int, more: list[str]
) -> None:
    write_input(tmp_path / "in")
    assert main(command(tmp_path, "model.values=[]", *more)) == 0
    not_finished(tmp_path)
    for receipts in (tmp_path / "out").rglob("receipts-*"):
        receipts.unlink()
    part = parts(tmp_path)[0]
    table = pq.read_table(part)
    pq.write_table(pa.concat_tables([table, table]).slice(0, rows), part)
    capsys.readouterr()
    assert main(command(tmp_path, "model.values=[]", *more)) == 1
    assert re.search(rf"{part.name}: {rows} rows were read, 25 were planned; delete it", capsys.readouterr().err)


def test_a_filter_may_leave_out_rows_of_a_part_without_a_receipt(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    given = command(tmp_path, "model.values=[]", "source.filters=[[x,'>',5]]")
    assert main(given) == 0
    before = manifest(tmp_path)
    not_finished(tmp_path)
    for receipts in (tmp_path / "out").rglob("receipts-*"):
        receipts.unlink()
    assert main(given) == 0
    assert manifest(tmp_path) == before


def test_an_empty_quarantine_file_of_a_part_without_a_receipt_is_named(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    not_finished(done)
    for receipts in (done / "out").rglob("receipts-*"):
        receipts.unlink()
    empty(next((done / "out/_runner/quarantine").iterdir()))
    assert main(command(done)) == 1
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", '{"parts": [1]}'])
def test_a_damaged_manifest_is_named_and_can_be_written_anew(
    done: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    file = done / "out/_runner/manifest.json"
    file.write_text(content)
    assert main(command(done, "action=verify")) == 2
    assert "manifest.json" in (told := capsys.readouterr().err)
    assert "Traceback" not in told
    file.unlink()
    assert verified(done, capsys)[0] == 1
    assert main(command(done)) == 0
    assert verified(done, capsys)[0] == 0


def test_a_complete_job_is_proved(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = verified(done, capsys)
    assert (code, out.splitlines()[0]) == (0, "verified: 4 parts, 100 rows in, 98 predicted, 2 quarantined")
    assert verified(done, capsys, "verify.deep=true")[0] == 0


def delete_a_part(out: Path) -> str:
    gone = sorted(out.glob("part-*"))[1]
    gone.unlink()
    return f"{gone.name}: the part is missing"


def truncate_a_part(out: Path) -> str:
    part = sorted(out.glob("part-*"))[1]
    part.write_bytes(part.read_bytes()[:-10])
    return f"{part.name}: is not what was committed"


def swap_a_part(out: Path) -> str:
    first, second = sorted(out.glob("part-*"))[:2]
    first.write_bytes(second.read_bytes())
    return f"{first.name}: is not what was committed"


def add_a_stranger(out: Path) -> str:
    (out / "extra.parquet").write_bytes(b"")
    return "extra.parquet: is not ours"


def add_a_stray_quarantine(out: Path) -> str:
    (out / "_runner/quarantine/part-00000099-0123456789abcdef.parquet").write_bytes(b"")
    return "no plan names the shard of this quarantine file"


def delete_a_quarantine(out: Path) -> str:
    sorted((out / "_runner/quarantine").iterdir())[0].unlink()
    return "do not make 25 rows of input"


def change_an_input(out: Path) -> str:
    pq.write_table(pa.table({"x": [1], "id": ["a"]}), out.parent / "in/002.parquet")
    return "002.parquet: changed since it was predicted"


def delete_success(out: Path) -> str:
    (out / "_SUCCESS").unlink()
    return "_SUCCESS: is missing"


def lose_rows_in_the_manifest(out: Path) -> str:
    path = out / "_runner/manifest.json"
    content = json.loads(path.read_text())
    content["parts"][3]["rows_in"] += 1
    path.write_text(json.dumps(content))
    return "do not make 26 rows of input"


def quarantine_of(out: Path) -> Path:
    return sorted((out / "_runner/quarantine").iterdir())[0]


def empty_a_quarantine(out: Path) -> str:
    empty(quarantine_of(out))
    return f"_runner/quarantine/{quarantine_of(out).name}: is damaged"


def edit_a_quarantine(out: Path) -> str:
    file = quarantine_of(out)
    table = pq.read_table(file)
    pq.write_table(table.set_column(0, "x", pa.array([77] * table.num_rows)), file)
    return f"_runner/quarantine/{file.name}: is not what was committed"


def edit_the_manifest(out: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = out / "_runner/manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_a_total(out: Path) -> str:
    edit_the_manifest(out, lambda content: content.update(rows_out=12))
    return "manifest.json: rows_out is 12, its parts make 98"


def lose_a_total(out: Path) -> str:
    edit_the_manifest(out, lambda content: content.pop("bytes"))
    return "manifest.json: bytes is None"


def lose_a_checksum(out: Path) -> str:
    edit_the_manifest(out, lambda content: content["parts"][1].pop("checksum"))
    return "is not whole"


def another_fingerprint(out: Path) -> str:
    edit_the_manifest(out, lambda content: content.update(fingerprint="0123456789abcdef"))
    return "manifest.json: is of another job than the recipe"


@pytest.mark.parametrize(
    "damage",
    [
        delete_a_part, truncate_a_part, swap_a_part, add_a_stranger, add_a_stray_quarantine, delete_a_quarantine,
        change_an_input, delete_success, lose_rows_in_the_manifest, empty_a_quarantine, edit_a_quarantine, edit_a_total,
        lose_a_total, lose_a_checksum, another_fingerprint,
    ],
)  # fmt: skip
def test_each_discrepancy_is_named(
    done: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], str]
) -> None:
    told = damage(done / "out")
    code, out = verified(done, capsys)
    assert code == 1
    assert told in out


def test_new_input_is_only_not_yet_predicted(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_input(done / "in", files=1, first=4)
    code, out = verified(done, capsys)
    assert code == 0
    assert "1 input file not yet predicted" in out
    assert "004.parquet" in out


def test_deep_reads_the_inputs_again(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A change that keeps size and time is found only by reading."""
    victim = done / "in/001.parquet"
    before = victim.stat()
    content = bytearray(victim.read_bytes())
    content[4:40] = bytes(36)
    victim.write_bytes(bytes(content))
    import os

    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert verified(done, capsys)[0] == 0
    code, out = verified(done, capsys, "verify.deep=true")
    assert code == 1
    assert "cannot be read again" in out


def test_another_job_is_not_proved_by_this_ones_output(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = verified(done, capsys, "batch_size=20")
    assert code == 1
    assert "the sink holds the output of another job: batch_size there: 10 now: 20" in out
    (done / "weights").write_text("1")
    _, out = verified(done, capsys, f"predict.artifacts=[{done}/weights]")
    assert re.search(r"another job: artifact \S+ is new \(", out)
    assert not re.search("[0-9a-f]{64}", out)
    assert verified(done, capsys, "batch_size=20", "sink.accept=[batch_size]")[0] == 0


def test_a_manifest_of_an_earlier_version_is_verified_by_what_it_has(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_the_manifest(done / "out", lambda content: [part.pop("quarantine") for part in content["parts"]])
    assert verified(done, capsys)[0] == 0


def test_a_sink_that_is_a_file_is_told_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_input(tmp_path / "in")
    (tmp_path / "out").touch()
    assert main(command(tmp_path, "action=verify")) == 2
    told = capsys.readouterr().err
    assert "is a file, a folder is expected" in told
    assert "Traceback" not in told


def test_a_sink_or_source_that_cannot_be_read_now_is_a_reason_to_try_again(
    done: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner.sources.files import Files
    from runner.storage.folder import Folder

    def refused(*_: Any) -> Any:
        raise PermissionError("no credentials")

    def gone(*_: Any) -> Any:
        raise ConnectionResetError("gone")

    for where, name, key in ((Files, "inputs", "source"), (Folder, "read", "sink.path")):
        for failing, expected in ((refused, 2), (gone, 75)):
            with monkeypatch.context() as patched:
                patched.setattr(where, name, failing)
                assert main(command(done, "action=verify")) == expected
            told = capsys.readouterr().err
            assert key in told
            assert "cannot be used" in told


def test_nothing_to_verify_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_input(tmp_path / "in")
    assert main(command(tmp_path, "action=verify")) == 2
    assert "nothing to verify" in capsys.readouterr().err


def test_verify_writes_nothing(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def tree() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in (done / "out").rglob("*")}

    before = tree()
    verified(done, capsys)
    assert tree() == before


# ---------------------------------------------------------------- losses that are accepted by name


def corrupt(tmp_path: Path) -> None:
    content = bytearray((tmp_path / "in/002.parquet").read_bytes())
    content[4:60] = bytes(56)
    (tmp_path / "in/002.parquet").write_bytes(bytes(content))


def skipping(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return job(tmp_path, mode="inline", **{"errors.stop_after_failed_shards": 9, **more})


def test_an_unreadable_file_fails_its_shard_and_is_skipped_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from runner import JobFailed

    write_input(tmp_path / "in")
    corrupt(tmp_path)
    with pytest.raises(JobFailed, match=r"002\.parquet cannot be read"):
        run(skipping(tmp_path))
    assert len(parts(tmp_path)) == 3, "the other shards did not go on"
    report = run(skipping(tmp_path, **{"errors.skip_files": ["002.parquet"]}))
    assert report.status == "complete"
    assert "002.parquet" in report.notes[0]
    assert manifest(tmp_path)["skipped"] == [str(tmp_path / "in/002.parquet")]
    given = [
        f"source.path={tmp_path / 'in'}",
        f"sink.path={tmp_path / 'out'}",
        "source=parquet",
        "model=custom",
        "batch_size=10",
    ]
    code = main([*given, "model._target_=predictors.doubling", "action=verify", "verify.deep=true"])
    out = capsys.readouterr().out
    assert code == 0, out
    assert "left out by errors.skip_files" in out


def test_a_skipped_file_is_not_planned(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    (tmp_path / "in/000.parquet").write_bytes(b"no parquet")
    report = run(skipping(tmp_path, **{"errors.skip_files": ["*/000.parquet"]}))
    assert (report.rows_out, manifest(tmp_path)["skipped"]) == (75, [str(tmp_path / "in/000.parquet")])


def test_nan_is_kept_or_quarantined(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    nan = {"mode": "inline", "predict.columns": ["x"]}
    kept = run(job(tmp_path, "not_a_number", **nan, **{"sink.path": str(tmp_path / "kept")}))
    assert kept.rows_quarantined == 0
    strict = run(
        job(
            tmp_path,
            "not_a_number",
            errors="quarantine",
            **nan,
            **{"errors.on_nan": "quarantine", "errors.max_bad_rows": 10},
        )
    )
    assert (strict.rows_out, strict.rows_quarantined) == (90, 10)


def test_temporaries_of_killed_runs_are_cleaned(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    run(job(tmp_path, mode="inline"))
    ours = tmp_path / "out" / f".{parts(tmp_path)[0].name}.0a1b2c3d.tmp"
    theirs = tmp_path / "out" / ".notes.0a1b2c3d.tmp"
    for path in (ours, theirs):
        path.write_text("half")
    run(job(tmp_path, mode="inline"))
    assert (ours.exists(), theirs.exists()) == (False, True)
