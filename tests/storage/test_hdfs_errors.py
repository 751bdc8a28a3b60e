"""What the client of HDFS raises, as errors of the kinds that every storage raises. The texts are those of a real one."""

from __future__ import annotations

import pytest

from runner.storage import hdfs, locations
from runner.storage.locations import protocol_problem
from runner.storage.transience import is_transient

DENIED = 'RPCError("org.apache.hadoop.security.AccessControlException", "Permission denied: user=other, inode=\\"/b\\"\\n\\tat org.x")'
SAFE = 'RPCError("org.apache.hadoop.hdfs.server.namenode.SafeModeException", "Cannot create file/x. Name node is in safe mode.\\nIt was")'
FULL = 'RPCError("java.io.IOException", "File /x could only be replicated to 0 nodes instead of minReplication (=1).\\n\\tat org.x")'


@pytest.mark.parametrize(
    ("raised", "kind", "passes", "told"),
    [
        (RuntimeError(DENIED), PermissionError, False, 'Permission denied: user=other, inode="/b"'),
        (
            RuntimeError(SAFE),
            ConnectionError,
            True,
            "/p: SafeModeException: Cannot create file/x. Name node is in safe",
        ),
        (RuntimeError(FULL), OSError, False, "/p: IOException: File /x could only be replicated to 0 nodes"),
        (RuntimeError('DataTransferError("All DataNodes failed: []")'), ConnectionError, True, "All DataNodes failed"),
        (OSError("Connection refused (os error 111)"), ConnectionRefusedError, True, "Connection refused"),
        (FileNotFoundError("File does not exist: /p\n\tat org.x"), FileNotFoundError, False, "File does not exist"),
        (FileExistsError("rename destination /p already exists\n\tat"), FileExistsError, False, "already exists"),
    ],
    ids=["denied", "safe mode", "full", "no datanode", "refused", "missing", "taken"],
)
def test_an_error_has_the_kind_that_it_means(raised: Exception, kind: type[Exception], passes: bool, told: str) -> None:
    with pytest.raises(kind) as found, hdfs.translated("/p"):
        raise raised
    assert told in str(found.value)
    assert "at org.x" not in str(found.value)
    assert is_transient(found.value) == passes


@pytest.mark.parametrize(
    ("uri", "path"),
    [("hdfs://nn:8020/a/b#%[1]?é", "/a/b#%[1]?é"), ("hdfs://nn", "/"), ("hdfs:///a/", "/a"), ("/a#b", "/a#b")],
    ids=["odd name", "host", "no host", "path"],
)
def test_a_path_may_have_any_characters(uri: str, path: str) -> None:
    assert hdfs.path_within(uri) == path


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locations, "find_spec", lambda _: None)
    assert "pip install -c constraints.txt -e '.[hdfs]'" in (protocol_problem("hdfs://nn/a") or "")
