"""Where input and output of a workload lie: the local disk, or object storage with latency."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

Place = Callable[[Path], contextlib.AbstractContextManager[str]]
"""From a folder whose subfolder `in` is the input to what the programs are given in its place."""

TESTS = Path(__file__).parent.parent / "tests"
LATENCY = 0.05  # seconds that each request to object storage waits


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[str]:
    """The local disk, the input in the page cache."""
    yield str(folder)


@contextlib.contextmanager
def object_storage(folder: Path) -> Iterator[str]:
    """An S3 server of this machine behind a proxy that delays each request; the environment leads every client there."""
    sys.path.insert(0, str(TESTS))
    from proxy import Fault, proxy
    from servers import REGION, s3_server

    with s3_server(folder) as server, proxy(server) as slow:
        access = {
            "AWS_ENDPOINT_URL": slow.server.endpoint,
            "AWS_ACCESS_KEY_ID": server.key,
            "AWS_SECRET_ACCESS_KEY": server.secret,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        with environment(access):
            _upload(folder / "in", f"s3://{server.bucket}/in")
            slow.plan(Fault("slow", seconds=LATENCY))
            yield f"s3://{server.bucket}"


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for a while, also for the processes that are started."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _upload(folder: Path, target: str) -> None:
    from pyarrow.fs import FileSystem, LocalFileSystem, copy_files

    store, path = FileSystem.from_uri(target)
    copy_files(str(folder), path, LocalFileSystem(), store)
