"""Whole jobs on storage that fails: throttled, stalled, reset, revoked, full.

What is transient is tried again, what is permanent is told at once, and neither leaves a truncated part, an open upload or
a temporary file behind.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from proxy import Fault, Proxy, proxy
from servers import S3Server
from test_job import job, parts, predicted, write_input

from runner import ConfigError, Incomplete, RunnerError, SinkRefused, run
from runner.storage.folder import Folder
from runner.storage.transience import backoff, is_transient, retrying

FILES, ROWS = 6, 25
NO_CLIENT_RETRIES = {"retries": {"max_attempts": 0}}  # what is retried is then retried by s3fs or by us
IMPATIENT = {**NO_CLIENT_RETRIES, "connect_timeout": 2, "read_timeout": 1}
BLOCK = 5 * 2**20  # the least part of an S3 upload


@dataclass(frozen=True)
class Place:
    """A folder of a bucket with input below `in/`, reached through a proxy by the job and directly by the test.

    Attributes:
        proxy: Before the server.
        store: The folder, directly.
    """

    proxy: Proxy
    store: Folder

    def job(self, loader: str = "doubling", /, **more: Any) -> dict[str, Any]:
        """A job from `in/` to `out/`, one shard per file; `client` is botocore's config."""
        options: dict[str, Any] = {
            "key": "${oc.env:TEST_KEY}",
            "secret": "${oc.env:TEST_SECRET}",
            "client_kwargs": dict(self.proxy.server.storage_options["client_kwargs"]),
            "config_kwargs": more.pop("client", NO_CLIENT_RETRIES),
        }
        return {
            "mode": "inline",
            "source": "parquet",
            "source.path": self.store.path("in"),
            "source.storage_options": options,
            "model": "custom",
            "model._target_": f"predictors.{loader}",
            "sink.path": self.store.path("out"),
            "sink.storage_options": options,
            "batch_size": 10,
            "shard_bytes": None,
            **more,
        }

    def parts(self, out: str = "out") -> dict[str, bytes]:
        """Name to content."""
        names = sorted(name for name in self.store.names(out) if "/_runner/" not in name and "/part-" in name)
        return {name.rpartition("/")[2]: self.store.read(name) or b"" for name in names}

    def predicted(self) -> list[int]:
        """All predictions in input order; reads every part whole, so that a truncated one is an error."""
        return [v for content in self.parts().values() for v in pq.read_table(io.BytesIO(content))["twice"].to_pylist()]

    def open_uploads(self) -> list[str]:
        """Keys of multipart uploads below the folder that were neither completed nor aborted."""
        bucket, _, prefix = self.store.root.removeprefix("s3://").partition("/")
        found = self.proxy.server.s3fs().call_s3("list_multipart_uploads", Bucket=bucket).get("Uploads", [])
        return [upload["Key"] for upload in found if upload["Key"].startswith(prefix)]

    def complete(self) -> bool:
        return self.store.read("out/_SUCCESS") is not None


@pytest.fixture(scope="module")
def front(s3: S3Server) -> Iterator[Proxy]:
    with proxy(s3) as running:
        yield running


@pytest.fixture
def place(front: Proxy, s3: S3Server, monkeypatch: pytest.MonkeyPatch, short_waits: None) -> Iterator[Place]:  # noqa: ARG001
    monkeypatch.setenv("TEST_KEY", s3.key)
    monkeypatch.setenv("TEST_SECRET", s3.secret)
    front.calm()
    made = Place(front, Folder(f"s3://{s3.bucket}/{uuid4().hex}", s3.storage_options))
    for i in range(FILES):
        made.store.replace(f"in/{i:03}.parquet", _file({"x": list(range(i * ROWS, (i + 1) * ROWS))}))
    yield made
    front.calm()
    assert made.open_uploads() == []
    assert [name for name in made.store.names() if name.endswith(".tmp")] == []


def _file(columns: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


ALL = [2 * x for x in range(FILES * ROWS)]
FIRST_PART, A_PART = r"part-00000000", r"/part-\d{8}-[0-9a-f]{16}\.parquet"


def calm_digests(place: Place) -> dict[str, str]:
    """The parts of an undisturbed run of the same job."""
    place.proxy.calm()
    run(place.job(**{"sink.path": place.store.path("calm")}))
    return digests(place, "calm")


def digests(place: Place, out: str = "out") -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in place.parts(out).items()}


def refused(config: dict[str, Any], kind: type[RunnerError] = Incomplete) -> str:
    """What a job that fails says; no traceback would reach a user, since the error is one of ours."""
    with pytest.raises(kind) as stopped:
        run(config)
    assert type(stopped.value) is kind
    return str(stopped.value)


def finishes(place: Place, config: dict[str, Any]) -> None:
    """The same job, on storage that is well again, predicts each row once."""
    place.proxy.calm()
    assert run(config).status == "complete"
    assert place.predicted() == ALL
    assert place.complete()


# ---------------------------------------------------------------- throttling and 5xx


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "client"),
    [(503, {}), (503, NO_CLIENT_RETRIES), (500, {"retries": {"total_max_attempts": 3, "mode": "standard"}})],
    ids=["503 and an everyday client", "503 and no retries of botocore", "500, which s3fs does not retry"],
)
def test_a_fifth_of_errors_changes_nothing(place: Place, status: int, client: dict[str, Any]) -> None:
    calm = calm_digests(place)
    place.proxy.plan(Fault("error", fraction=0.2, status=status), seed=1)
    report = run(place.job(client=client))
    assert (report.status, report.rows_in, report.rows_out) == ("complete", len(ALL), len(ALL))
    assert place.proxy.faults("error") > 0
    assert place.predicted() == ALL
    assert digests(place) == calm
    assert place.complete()


@pytest.mark.slow
def test_a_fifth_of_errors_in_tasks(place: Place, ray_session: None) -> None:  # noqa: ARG001
    place.proxy.plan(Fault("error", fraction=0.2), seed=2)
    assert run(place.job(mode="tasks")).status == "complete"
    assert place.predicted() == ALL


def test_a_part_is_tried_again_within_the_budget_of_its_shard(place: Place) -> None:
    """500 is retried by neither client here: what succeeds is our own try."""
    place.proxy.plan(Fault("error", "PUT", FIRST_PART, times=2, status=500))
    report = run(place.job(**{"errors.max_retries": 2}))
    assert (report.status, report.retries) == ("complete", 2)
    assert place.predicted() == ALL


def test_beyond_the_budget_the_job_is_incomplete_and_completes_later(place: Place) -> None:
    config = place.job(**{"errors.max_retries": 1})
    place.proxy.plan(Fault("error", "PUT", A_PART, status=500, since=r"PUT .*/plan-"))
    told = refused(config)
    assert re.search(f"{re.escape(place.store.path('out'))}{A_PART}", told), told
    assert "errors.max_retries=1" in told
    assert place.parts() == {}
    assert not place.complete()
    finishes(place, config)


@pytest.mark.parametrize("record", ["recipe.json", "plan-", "receipts-", "manifest.json", "_SUCCESS", "mark.json"])
def test_the_ledgers_own_writes_are_tried_again(place: Place, record: str) -> None:
    place.proxy.plan(Fault("error", "PUT", record, times=2, status=500))
    assert run(place.job()).status == "complete"
    assert place.proxy.faults("error") == 2
    assert place.predicted() == ALL
    assert place.complete()


def test_a_listing_that_fails_for_a_moment_is_tried_again(place: Place) -> None:
    place.proxy.plan(Fault("error", "GET", "list-type=2.*%2Fout", times=2, status=500))
    assert run(place.job()).status == "complete"
    assert place.proxy.faults("error") == 2


@pytest.mark.parametrize("target", ["list-type=2.*%2Fin(%2F|&)", r"/in/000\.parquet"])
def test_a_source_that_does_not_answer_now_is_incomplete(place: Place, target: str) -> None:
    place.proxy.plan(Fault("error", "GET HEAD", target, status=500))
    told = refused(place.job())
    assert told.startswith("source.path")
    assert place.store.path("in") in told
    finishes(place, place.job())


# ---------------------------------------------------------------- stalls, resets, lost answers


@pytest.mark.parametrize(
    "fault",
    [
        Fault("stall", "PUT", FIRST_PART, times=1),
        Fault("stall", "GET", r"/in/002\.parquet", times=1, since="PUT .*/plan-"),
        Fault("reset", "PUT", FIRST_PART, times=1, after_bytes=100),
        Fault("reset", "GET", r"/in/002\.parquet", times=1, since="PUT .*/plan-"),
        Fault("lose", "PUT", FIRST_PART, times=1),
        Fault("lose", "PUT", "/plan-", times=1),
        Fault("lose", "PUT", "/recipe.json", times=1),
        Fault("lose", "PUT", "/mark.json", times=1),
        Fault("slow", fraction=0.3, seconds=0.2),
    ],
    ids=lambda fault: f"{fault.what} {fault.methods} {fault.target}",
)
def test_a_broken_connection_is_got_over(place: Place, fault: Fault) -> None:
    calm = calm_digests(place)
    place.proxy.plan(fault)
    assert run(place.job(client=IMPATIENT)).status == "complete"
    assert place.proxy.faults(fault.what) >= 1
    assert place.predicted() == ALL
    assert digests(place) == calm


@pytest.mark.slow
def test_a_connection_that_stalls_for_good_ends_the_job(place: Place) -> None:
    """Bounded by the timeouts of the client, not by anyone's patience: the test's own timeout would say so."""
    config = place.job(client=IMPATIENT, **{"errors.max_retries": 0})
    place.proxy.plan(Fault("stall", "PUT", FIRST_PART))
    assert FIRST_PART in refused(config)
    finishes(place, config)


# ---------------------------------------------------------------- uploads in several parts


def big(place: Place, **more: Any) -> dict[str, Any]:
    """A job of one shard whose part is uploaded in at least two requests."""
    blobs = [os.urandom(1 << 20) for _ in range(12)]
    place.store.replace("big/0.parquet", _file({"x": list(range(12)), "blob": blobs}))
    config = place.job(
        **{"source.path": place.store.path("big"), "predict.columns": ["x"], "sink.keep_columns": ["blob"]}
    )
    options = {**config["sink.storage_options"], "default_block_size": BLOCK, "config_kwargs": IMPATIENT}
    return {**config, "batch_size": 2, "sink.storage_options": options, **more}


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        Fault("reset", "PUT", "partNumber=2", times=2, after_bytes=1 << 20),
        Fault("error", "PUT", "partNumber=2", times=1, status=500),
        Fault("stall", "PUT", "partNumber=1", times=1),
        Fault("lose", "PUT", "partNumber=1", times=1),
        Fault("error", "POST", "uploadId=", times=1, status=500),
        Fault("lose", "POST", "uploadId=", times=1),
        Fault("error", "POST", "uploads", times=1, status=500),
    ],
    ids=lambda fault: f"{fault.what} {fault.methods} {fault.target}",
)
def test_a_disturbed_upload_is_whole_in_the_end(place: Place, fault: Fault) -> None:
    config = big(place)
    place.proxy.plan(fault)
    assert run(config).status == "complete"
    assert place.proxy.faults(fault.what) >= 1
    assert place.proxy.count("PUT", "partNumber=2") >= 1, "the part was uploaded in one request"
    assert place.predicted() == [2 * x for x in range(12)]


def test_an_upload_that_fails_for_good_is_aborted(place: Place) -> None:
    config = big(place, **{"errors.max_retries": 1})
    place.proxy.plan(Fault("error", "PUT", "partNumber=2", status=500))
    assert place.store.path("out") in refused(config)
    assert place.proxy.count("POST", "uploads", status=200) == 2, "one upload for each try"
    assert place.open_uploads() == []
    assert place.parts() == {}
    place.proxy.calm()
    assert run(config).status == "complete"


# ---------------------------------------------------------------- permission


def test_a_permission_revoked_in_mid_job_is_told_at_once(place: Place) -> None:
    config = place.job()
    place.proxy.plan(Fault("error", status=403, since=f"PUT .*{A_PART}"))
    told = refused(config)
    assert place.store.path("") in told
    assert re.search("Forbidden|AccessDenied|refused|Permission", told), told
    writes = place.proxy.count("PUT", A_PART, status=403)
    assert writes <= FILES - 1, "a part was tried twice"
    assert len(place.parts()) == 1
    assert not place.complete()
    finishes(place, config)


def test_a_sink_that_may_not_be_written_any_more_is_named(place: Place) -> None:
    place.proxy.plan(Fault("error", "PUT", A_PART, status=403, since=f"PUT .*{A_PART}"))
    told = refused(place.job())
    assert re.search(f"{re.escape(place.store.path('out'))}{A_PART}", told), told
    finishes(place, place.job())


@pytest.mark.parametrize("side", ["source", "sink"])
def test_wrong_credentials_are_told_with_the_path(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, side: str
) -> None:
    monkeypatch.setenv("TEST_WRONG", "wrong")
    config = place.job("counting", **{"model.folder": str(tmp_path)})
    config[f"{side}.storage_options"] = {**config[f"{side}.storage_options"], "secret": "${oc.env:TEST_WRONG}"}
    told = refused(config, ConfigError if side == "source" else SinkRefused)
    assert f"{side}.path" in told
    assert place.store.path("in" if side == "source" else "out") in told
    assert list(tmp_path.glob("load-*")) == [], "the model was loaded before the refusal"


# ---------------------------------------------------------------- the local disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk of 1 MiB, or mounts it again with other options."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        return disk

    yield mount
    subprocess.run(["umount", str(disk)], check=False, capture_output=True)


def test_a_full_disk_is_told_and_room_is_enough_to_go_on(tmp_path: Path, small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("size=1m")
    blobs = [os.urandom(10_000) for _ in range(100)]
    (tmp_path / "in").mkdir()
    for i in range(3):
        table = pa.table({"x": range(i * 100, i * 100 + 100), "blob": blobs})
        pq.write_table(table.slice(0, 20 if i == 0 else 100), tmp_path / f"in/{i}.parquet")
    out = disk / "out"
    more = {"mode": "inline", "sink.path": str(out), "predict.columns": ["x"], "sink.keep_columns": ["blob"]}
    config = job(tmp_path, **more)
    told = refused(config)
    assert str(out) in told
    assert "No space left" in told
    there = [(int(part.name.split("-")[1]), pq.read_table(part).num_rows) for part in parts(disk)]
    assert 0 < len(there) < 3
    assert all(rows == (20, 100, 100)[sequence] for sequence, rows in there), "a part is truncated"
    assert [path for path in out.rglob("*") if path.name.endswith(".tmp")] == []
    assert not (out / "_SUCCESS").exists()
    small_disk("remount,size=8m")
    assert run(config).status == "complete"
    values = [2 * x for i, rows in enumerate((20, 100, 100)) for x in range(i * 100, i * 100 + rows)]
    assert predicted(disk) == values


def test_a_read_only_sink_is_refused_before_the_model_is_loaded(
    tmp_path: Path, small_disk: Callable[[str], Path]
) -> None:
    write_input(tmp_path / "in")
    (tmp_path / "count").mkdir()
    disk = small_disk("size=1m,ro")
    config = job(tmp_path, "counting", **{"model.folder": str(tmp_path / "count"), "sink.path": str(disk / "out")})
    told = refused({"mode": "inline", **config}, SinkRefused)
    assert f"sink.path={disk / 'out'}" in told
    assert "Read-only" in told
    assert list((tmp_path / "count").iterdir()) == []


def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    write_input(tmp_path / "in")
    (tmp_path / "out").mkdir(mode=0o500)
    told = refused({"mode": "inline", **job(tmp_path)}, SinkRefused)
    assert f"sink.path={tmp_path / 'out'}" in told


# ---------------------------------------------------------------- trying again, by itself


def failing(times: int, error: Exception) -> tuple[Callable[[], str], list[int]]:
    tried: list[int] = []

    def act() -> str:
        tried.append(len(tried))
        if len(tried) <= times:
            raise error
        return "done"

    return act, tried


def test_transient_errors_are_tried_again_after_doubling_waits() -> None:
    act, tried = failing(3, ConnectionResetError("reset"))
    waits: list[float] = []
    assert retrying(act, sleep=waits.append, jitter=lambda: 1.0) == "done"
    assert (len(tried), waits) == (4, [0.5, 1.0, 2.0])


def test_the_tries_end() -> None:
    act, tried = failing(99, ConnectionResetError("reset"))
    waits: list[float] = []
    with pytest.raises(ConnectionResetError):
        retrying(act, 2, sleep=waits.append)
    assert (len(tried), len(waits)) == (3, 2)


def test_nothing_is_tried_again_once_the_time_is_over() -> None:
    act, tried = failing(99, TimeoutError("no answer"))
    clock = iter([0.0, 40.0, 80.0])
    with pytest.raises(TimeoutError):
        retrying(act, within=60.0, sleep=lambda _: None, now=lambda: next(clock))
    assert len(tried) == 2


def test_a_permanent_error_is_not_tried_again() -> None:
    act, tried = failing(99, PermissionError("no"))
    with pytest.raises(PermissionError):
        retrying(act, sleep=lambda _: pytest.fail("waited"))
    assert len(tried) == 1


def test_jitter_spreads_the_waits() -> None:
    assert [backoff(2, jitter) for jitter in (0.0, 0.5, 1.0)] == [1.0, 1.5, 2.0]
    assert backoff(50, 1.0) == 30.0


def test_an_upload_that_ended_twice_is_transient() -> None:
    """S3 says so of an upload whose completion was done, but whose answer was lost."""
    error = FileNotFoundError("The specified multipart upload does not exist")
    error.__cause__ = _answer("NoSuchUpload", 404)
    assert is_transient(error)


def _answer(code: str, status: int) -> Exception:
    error = RuntimeError(code)
    error.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}  # type: ignore[attr-defined]
    return error
