"""Publishing whole or not at all, creating exactly once, complete listings, and which errors pass by themselves."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from servers import S3Server

from runner.errors import ConfigError
from runner.storage import locations
from runner.storage.folder import Folder, artifact_files, digest
from runner.storage.locations import locate
from runner.storage.transience import is_transient
from runner.types import Written

CONTENT = b"x" * 100_000
MEBIBYTE = b"x" * 1024**2


@pytest.fixture(params=["disk", "memory", "s3", "hdfs"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "disk":
        return Folder(str(tmp_path / "out"))
    if request.param == "memory":
        return Folder(f"memory://{uuid4().hex}/out")
    if request.param == "hdfs":
        return Folder(f"{request.getfixturevalue('hdfs').uri}/{uuid4().hex}")
    server: S3Server = request.getfixturevalue("s3")
    return Folder(f"s3://{server.bucket}/{uuid4().hex}", server.storage_options)


def hidden(store: Folder) -> list[str]:
    return [name for name in store.names() if name.rpartition("/")[2].startswith(".")]


# ---------------------------------------------------------------- every kind of store


def test_nothing_is_nothing(store: Folder) -> None:
    assert store.names() == {}
    assert store.read("a") is None
    store.delete("a")


def test_what_is_published_is_listed_read_replaced_and_deleted(store: Folder) -> None:
    name = "k=1/a b#%[1]é.bin"
    with store.publish(name) as file:
        file.write(b"ab")
        assert name not in store.names()
        file.write(memoryview(b"c"))
    assert file.written() == Written(3, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    assert store.names() == {name: 3}
    assert store.names("k=1") == {name: 3}
    store.replace(name, b"")
    assert (store.read(name), store.names()) == (b"", {name: 0})
    store.delete(name)
    assert store.names() == {}


def write_and_raise(store: Folder, name: str, error: BaseException, chunk: bytes = CONTENT, times: int = 1) -> None:
    with store.publish(name) as file:
        for _ in range(times):
            file.write(chunk)
        raise error


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_an_exception_in_mid_write_leaves_what_was_there(store: Folder, error: BaseException) -> None:
    store.replace("old", b"old")
    for name in ("old", "new"):
        with pytest.raises(type(error)):
            write_and_raise(store, name, error)
    gc.collect()
    assert store.names() == {"old": 3}
    assert store.read("old") == b"old"


def test_a_name_is_created_once(store: Folder) -> None:
    assert store.create("deep/a", b"first")
    assert not store.create("deep/a", b"second")
    assert store.read("deep/a") == b"first"
    assert hidden(store) == []


def test_of_racing_threads_exactly_one_creates(store: Folder) -> None:
    for i in range(3):
        assert _winners(store, f"plan-{i}", 8) == [True]


def _winners(store: Folder, name: str, racers: int) -> list[bool]:
    barrier, won = threading.Barrier(racers), []

    def race(number: int) -> None:
        barrier.wait()
        if store.create(name, bytes([number]) * 50_000):
            won.append(store.read(name) == bytes([number]) * 50_000)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(racers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won


RACE = """
import json, sys
from runner.storage.folder import Folder
store = Folder(sys.argv[1], json.loads(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
print(store.create("plan", sys.argv[3].encode() * 100_000), flush=True)
"""


def test_of_racing_processes_exactly_one_creates(store: Folder) -> None:
    if store.root.startswith("memory"):
        pytest.skip("memory is one process's own")
    import json

    command = [sys.executable, "-c", RACE, store.root, json.dumps(dict(store.options))]
    racers = [
        subprocess.Popen([*command, letter], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for letter in "abc"
    ]
    assert all(racer.stdout and racer.stdout.readline() == "ready\n" for racer in racers)
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("\n")
        racer.stdin.flush()
    answers = {letter: racer.communicate()[0].strip() for letter, racer in zip("abc", racers, strict=True)}
    assert sorted(answers.values()) == ["False", "False", "True"]
    winner = next(letter for letter, answer in answers.items() if answer == "True")
    assert store.read("plan") == winner.encode() * 100_000


def test_a_file_in_place_of_the_folder_is_told(store: Folder) -> None:
    store.replace("file", b"x")
    with pytest.raises(NotADirectoryError, match="is a file"):
        Folder(store.path("file"), store.options).names()


# ---------------------------------------------------------------- the local disk


def test_parts_appear_under_their_name_in_one_step(tmp_path: Path) -> None:
    store = Folder(str(tmp_path))
    with store.publish("a") as file:
        file.write(b"x")
        (temporary,) = tmp_path.iterdir()
        assert temporary.name.startswith(".a.")
        assert temporary.parent == tmp_path  # a rename, not a copy across disks
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_disk_without_links_still_creates_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    store = Folder(str(tmp_path))
    assert [store.create("a", b"1"), store.create("a", b"2")] == [True, False]
    assert store.names() == {"a": 1}


def test_files_that_vanish_while_they_are_listed_do_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", ".b.tmp", "c"):
        (tmp_path / name).write_bytes(b"x")
    stat = os.stat

    def vanished(path: Any, **more: Any) -> os.stat_result:
        if str(path).endswith(".tmp"):
            raise FileNotFoundError(path)
        return stat(path, **more)

    monkeypatch.setattr(os, "stat", vanished)
    assert set(Folder(str(tmp_path)).names()) == {"a", "c"}


def test_a_folder_in_the_way_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="a"):
        Folder(str(tmp_path)).replace("a", b"x")
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]


def test_a_disk_that_refuses_is_told_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for act in ("create", "replace"):
        with pytest.raises(OSError, match="file"):
            ACTS[act](Folder(str(tmp_path / "file")))


@pytest.mark.parametrize("entry", ["file", "folder"])
def test_an_artifact_is_a_file_or_all_files_of_a_folder(tmp_path: Path, entry: str) -> None:
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    for name in ("file", "folder/a", "folder/deep/b"):
        (tmp_path / name).write_bytes(name.encode())
    path = str(tmp_path / entry)
    expected = [path] if entry == "file" else [f"{path}/a", f"{path}/deep/b"]
    assert artifact_files(path) == expected
    before = digest(path)
    assert digest(path) == before
    Path(expected[-1]).write_bytes(b"changed")
    assert digest(path) != before


# ---------------------------------------------------------------- a real S3 server


def uploads(server: S3Server) -> list[Any]:
    return list(server.s3fs().call_s3("list_multipart_uploads", Bucket=server.bucket).get("Uploads") or [])


def test_a_large_upload_that_fails_is_aborted(s3: S3Server) -> None:
    options = {**s3.storage_options, "default_block_size": 5 * 1024**2}
    store = Folder(f"s3://{s3.bucket}/{uuid4().hex}", options)
    with store.publish("large") as file:
        for _ in range(12):
            file.write(MEBIBYTE)
        assert len(uploads(s3)) == 1  # part of it has left already
    assert store.names() == {"large": 12 * len(MEBIBYTE)}
    with pytest.raises(ValueError, match="stop"):
        write_and_raise(store, "other", ValueError("stop"), MEBIBYTE, 12)
    gc.collect()
    assert (list(store.names()), uploads(s3)) == (["large"], [])


def test_a_listing_shows_what_another_process_wrote(s3: S3Server) -> None:
    store = Folder(f"s3://{s3.bucket}/{uuid4().hex}", {**s3.storage_options, "use_listings_cache": True})
    store.replace("a", b"1")
    assert store.names() == {"a": 1}
    code = "import sys, json; from runner.storage.folder import Folder; Folder(sys.argv[1], json.loads(sys.argv[2])).replace('b', b'22')"
    import json

    subprocess.run([sys.executable, "-c", code, store.root, json.dumps(dict(store.options))], check=True)
    assert store.names() == {"a": 1, "b": 2}
    assert store.read("b") == b"22"


@pytest.mark.parametrize(
    ("given", "attempts"), [({}, 2), ({"retries": {"max_attempts": 6}}, 7), ({"read_timeout": 3}, 2)]
)
def test_botocore_tries_twice_unless_told_otherwise(s3: S3Server, given: dict[str, Any], attempts: int) -> None:
    only_s3fs = {"s3_additional_kwargs": {"StorageClass": "STANDARD"}}
    fs, _ = locate(f"s3://{s3.bucket}/a", {**s3.storage_options, **only_s3fs, "config_kwargs": given})
    fs.ls(s3.bucket)
    assert fs.s3.meta.config.retries["total_max_attempts"] == attempts


def test_a_folder_marker_is_no_file(s3: S3Server) -> None:
    store = Folder(f"s3://{s3.bucket}/{uuid4().hex}", s3.storage_options)
    store.replace("a", b"1")
    s3.s3fs().pipe_file(f"{store.root}/folder/", b"")
    assert store.names() == {"a": 1}


ACTS: dict[str, Callable[[Folder], object]] = {
    "names": lambda store: store.names(),
    "read": lambda store: store.read("a"),
    "create": lambda store: store.create("b", b"x"),
    "replace": lambda store: store.replace("b", b"x"),
    "delete": lambda store: store.delete("a"),
}


@pytest.mark.parametrize("act", ACTS)
def test_a_wrong_secret_is_refused_with_the_path(s3: S3Server, act: str) -> None:
    store = Folder(f"s3://{s3.bucket}/{uuid4().hex}", s3.storage_options)
    store.replace("a", b"1")
    with pytest.raises(PermissionError, match=rf"{store.root}.*storage_options") as refused:
        ACTS[act](Folder(store.root, {**s3.storage_options, "secret": "wrong"}))
    assert not is_transient(refused.value)
    assert store.names() == {"a": 1}


def test_anonymous_may_read_and_is_refused_to_write(s3: S3Server) -> None:
    folder = uuid4().hex
    Folder(f"s3://{s3.bucket}/{folder}", s3.storage_options).replace("a", b"1")
    options = {name: value for name, value in s3.anonymous_options.items() if name != "anon"}
    anyone = Folder(f"s3://anonymous@{s3.bucket}/{folder}", options)
    assert (anyone.names(), anyone.read("a")) == ({"a": 1}, b"1")
    for act in ("create", "replace", "delete"):
        with pytest.raises(PermissionError, match=f"{folder}.*Access Denied"):
            ACTS[act](anyone)


@pytest.mark.parametrize("act", ["create", "replace"])
def test_a_bucket_that_does_not_exist_is_named(s3: S3Server, act: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"s3://no-such-bucket/out/b: .*bucket does not exist"):
        ACTS[act](Folder("s3://no-such-bucket/out", s3.storage_options))


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("act", ["names", "read", "replace"])
def test_a_server_that_is_not_there_may_come_back(act: str) -> None:
    pytest.importorskip("s3fs")
    client = {"endpoint_url": "http://127.0.0.1:1", "region_name": "us-east-1"}
    config = {"retries": {"max_attempts": 0}, "connect_timeout": 1}
    store = Folder("s3://bucket/out", {"key": "k", "secret": "s", "client_kwargs": client, "config_kwargs": config})
    with pytest.raises(OSError, match="s3://bucket/out") as away:
        ACTS[act](store)
    assert is_transient(away.value)


def test_without_credentials_the_refusal_names_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    client = {"endpoint_url": "http://127.0.0.1:1", "region_name": "us-east-1"}
    with pytest.raises(PermissionError, match=r"s3://bucket/out.*credentials"):
        Folder(f"s3://bucket/out{uuid4().hex}", {"client_kwargs": client}).names()


def test_a_missing_package_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec.core

    def missing(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(
        ConfigError, match=r"s3://b/k: s3:// needs a package .* pip install -c constraints.txt -e '\.\[s3\]'"
    ):
        Folder("s3://b/k", {"unique": 1}).names()


# ---------------------------------------------------------------- which errors pass


def s3_error(code: str, status: int | None, operation: str = "GetObject") -> BaseException:
    """As s3fs raises what botocore answers."""
    botocore = pytest.importorskip("botocore.exceptions")
    errors = pytest.importorskip("s3fs.errors")
    meta = {} if status is None else {"HTTPStatusCode": status}
    answer = {"Error": {"Code": code, "Message": "told"}, "ResponseMetadata": meta}
    found: BaseException = errors.translate_boto_error(botocore.ClientError(answer, operation))
    return found


@pytest.mark.parametrize(
    ("code", "status", "passes"),
    [
        ("SlowDown", 503, True), ("503", 503, True), ("503", None, True), ("ServiceUnavailable", 503, True),
        ("InternalError", 500, True), ("500", 500, True), ("500", None, True), ("502", 502, True), ("504", 504, True),
        ("RequestTimeout", 400, True), ("ThrottlingException", 400, True), ("429", 429, True),
        ("OperationAborted", 409, True), ("ConditionalRequestConflict", 409, True), ("IncompleteBody", 400, True),
        ("AccessDenied", 403, False), ("403", 403, False), ("SignatureDoesNotMatch", 403, False),
        ("InvalidAccessKeyId", 403, False), ("ExpiredToken", 400, False), ("RequestTimeTooSkewed", 403, False),
        ("NoSuchKey", 404, False), ("404", 404, False), ("NoSuchBucket", 404, False), ("PreconditionFailed", 412, False),
        ("InvalidRange", 416, False), ("400", 400, False), ("UnheardOf", 400, False), ("NotImplemented", 501, False),
    ],
)  # fmt: skip
def test_answers_of_s3(code: str, status: int | None, passes: bool) -> None:
    assert is_transient(s3_error(code, status)) is passes


class AnswerError(Exception):
    """As other packages carry a status: aiohttp's `status`, azure's `status_code`, gcsfs' `code`, httpx' `response`."""

    def __init__(self, **attributes: object) -> None:
        super().__init__("told")
        vars(self).update(attributes)


class Response:
    def __init__(self, status: int) -> None:
        self.status_code = status


@pytest.mark.parametrize("status", [200, 400, 403, 404, 408, 412, 429, 500, 501, 503])
@pytest.mark.parametrize("carry", ["status", "status_code", "code", "response"])
def test_answers_of_other_stores(carry: str, status: int) -> None:
    answer: object = Response(status) if carry == "response" else status
    assert is_transient(AnswerError(**{carry: answer})) is (status in {408, 429, 500, 503})


def of_package(module: str, *names: str) -> BaseException:
    """An instance of a class that claims to come from a package, whose bases have these names."""
    kind: type[Exception] = Exception
    for name in names:
        kind = type(name, (kind,), {"__module__": module})
    return kind("told")


def errors_that_pass() -> Iterator[BaseException]:
    yield from (ConnectionResetError(), BrokenPipeError(), TimeoutError())
    yield from (OSError(number, "told") for number in (errno.EIO, errno.ESTALE, errno.ENETUNREACH, errno.EBUSY))
    yield of_package("botocore.exceptions", "ConnectionError", "EndpointConnectionError")
    yield of_package("botocore.exceptions", "HTTPClientError", "ReadTimeoutError")
    yield of_package("aiohttp.client_exceptions", "ClientConnectionError", "ServerDisconnectedError")
    yield of_package("azure.core.exceptions", "ServiceRequestError")
    yield of_package("google.auth.exceptions", "TransportError")
    yield of_package("urllib3.exceptions", "ProtocolError")


def errors_that_stay() -> Iterator[BaseException]:
    yield from (ValueError(), PermissionError(), FileNotFoundError(), FileExistsError(), OSError("told"), KeyError())
    yield from (OSError(errno.ENOSPC, "full"), OSError(errno.EINVAL, "told"), IsADirectoryError(errno.EISDIR, "told"))
    yield of_package("botocore.exceptions", "NoCredentialsError")
    yield of_package("aiohttp.client_exceptions", "InvalidURL")
    yield of_package("mine", "ConnectionError")


@pytest.mark.parametrize("error", [*errors_that_pass()], ids=repr)
def test_trouble_of_the_network_passes(error: BaseException) -> None:
    assert is_transient(error)


@pytest.mark.parametrize("error", [*errors_that_stay()], ids=repr)
def test_other_trouble_stays(error: BaseException) -> None:
    assert not is_transient(error)


def raised(first: BaseException, then: Callable[[BaseException], BaseException]) -> BaseException:
    try:
        try:
            raise first
        except BaseException as error:
            raise then(error) from (error if isinstance(error, ConnectionError) else None)
    except BaseException as error:
        return error


def test_what_led_to_an_error_counts_unless_it_is_hidden() -> None:
    assert is_transient(raised(ConnectionResetError(), lambda _: RuntimeError("told")))
    assert not is_transient(raised(TimeoutError(), lambda _: RuntimeError("told")))  # raised from None
    assert not is_transient(raised(ConnectionResetError(), lambda _: PermissionError("told")))


def test_a_file_that_changed_under_the_reader_is_not_read_again() -> None:
    utils = pytest.importorskip("s3fs.utils")
    assert not is_transient(utils.FileExpired("b/k", "etag"))


@pytest.mark.parametrize("uri", ["hdfs:///out", "webhdfs:///out", "dbfs:///out", "own:///out", "s3://b/out"])
def test_a_path_without_a_host_is_a_place_where_the_protocol_has_no_buckets(uri: str) -> None:
    assert locations.unfit_for_parts(uri) is None


@pytest.mark.parametrize("uri", ["s3:///out", "gs:///out", "hdfs:///", "own:///"])
def test_a_path_without_a_bucket_is_none_where_the_protocol_has_buckets(uri: str) -> None:
    assert locations.unfit_for_parts(uri) == "names no bucket"
