"""From paths, globs, folders and lists to input files: which, in which order, under which names."""

from __future__ import annotations

import http.server
import os
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from servers import S3Server

from runner.errors import ConfigError
from runner.sources.listing import list_files
from runner.storage.globs import expand_glob
from runner.storage.locations import absolute, locate, uri_of_path
from runner.storage.walking import children, find_files, stream_files


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def listed(root: Path, *entries: str) -> list[str]:
    return [file.name.removeprefix(f"{root}/") for file in list_files([f"{root}/{each}" for each in entries], {})]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    touch(tmp_path, "d/b.x", "d/a.x", "d/sub/c.x", "d/_hidden/e.x", "d/.git/f.x", "d/_g.x", "d/.h.x", "other/i.y")
    return tmp_path


def test_a_folder_is_listed_sorted_and_without_hidden_segments(root: Path) -> None:
    assert listed(root, "d") == listed(root, "d/") == ["d/a.x", "d/b.x", "d/sub/c.x"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("d/*.x", ["d/a.x", "d/b.x"]),
        ("d/?.x", ["d/a.x", "d/b.x"]),
        ("d/[a].x", ["d/a.x"]),
        ("d/*", ["d/a.x", "d/b.x", "d/sub/c.x"]),
        ("d/**/*.x", ["d/a.x", "d/b.x", "d/sub/c.x"]),
        ("d/**", ["d/a.x", "d/b.x", "d/sub/c.x"]),
        ("**/i.y", ["other/i.y"]),
        ("*/sub/c.x", ["d/sub/c.x"]),
        ("*/nothing/c.x", []),
        ("d/*.y", []),
        ("nowhere/*.y", []),
    ],
)
def test_a_glob_is_expanded_and_sorted(root: Path, pattern: str, expected: list[str]) -> None:
    assert listed(root, pattern) == expected


def test_entries_keep_their_order_and_a_file_named_twice_counts_once(root: Path) -> None:
    assert listed(root, "other", "d/b.x", "d", "d/*.x") == ["other/i.y", "d/b.x", "d/a.x", "d/sub/c.x"]


def test_a_hidden_file_or_folder_that_is_named_itself_is_read(root: Path) -> None:
    assert listed(root, "d/_g.x", "d/_hidden") == ["d/_g.x", "d/_hidden/e.x"]


def test_names_are_sorted_by_their_bytes(tmp_path: Path) -> None:
    names = ["Z", "a", "é", "z", "\uffee", "\U0001f600", "a b", "a#b", "a%20b", "a=b", "a[1]", "10", "9"]
    touch(tmp_path, *names)
    assert listed(tmp_path, "") == sorted(names, key=str.encode)


@pytest.mark.parametrize("name", ["a b.x", "a#b.x", "a%20b.x", "a=b.x", "a[1].x", "ü/ß.x", "k=1 2/x[*].x", "a?b.x"])
def test_unusual_names_are_taken_as_they_are(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name)
    assert listed(tmp_path, name) == [name]
    assert listed(tmp_path, "") == [name]


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    try:
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.x"))).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(ConfigError, match="not UTF-8"):
        list_files([str(tmp_path)], {})


def test_links_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.x", "real/deep/b.x")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file.x").symlink_to(tmp_path / "real" / "a.x")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "real" / "deep")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / ".#lock").symlink_to(tmp_path / "gone")
    assert listed(tmp_path, "in") == ["in/file.x", "in/folder/b.x"]
    assert listed(tmp_path, "in/*.x") == ["in/file.x"]


@pytest.mark.parametrize("entry", ["in", "in/*.x", "**/*.x"])
def test_a_link_to_nothing_is_refused_by_name(tmp_path: Path, entry: str) -> None:
    """Data that was not fetched must not look like data that is not there."""
    touch(tmp_path, "in/a.x")
    (tmp_path / "in" / "nothing.x").symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"in/nothing\.x is a link to nothing"):
        listed(tmp_path, entry)


def test_a_file_whose_size_nobody_tells_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken as empty, all of its rows would be lost without a word."""
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.pipe("/sizes/a.x", b"x")
    info = type(fs).info
    monkeypatch.setattr(type(fs), "info", lambda self, path, **more: {**info(self, path, **more), "size": None})
    with pytest.raises(ConfigError, match=r"a\.x has a size that its server does not tell"):
        list_files(["memory://sizes/a.x"], {})


def test_what_is_neither_file_nor_folder_is_refused_by_name_and_skipped_in_folders(tmp_path: Path) -> None:
    touch(tmp_path, "a.x")
    os.mkfifo(tmp_path / "pipe")
    assert listed(tmp_path, "") == ["a.x"]
    with pytest.raises(ConfigError, match="neither a file nor a folder"):
        list_files([str(tmp_path / "pipe")], {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
@pytest.mark.parametrize("entry", ["", "*/*.x", "**/*.x"])
def test_a_folder_that_cannot_be_listed_is_an_error(root: Path, entry: str) -> None:
    (root / "other").chmod(0)
    try:
        with pytest.raises(ConfigError, match="other"):
            listed(root, entry)
    finally:
        (root / "other").chmod(0o700)


class Refusing(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """A storage that refuses to list one of its folders."""

    protocol = "refusing"

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        if path.endswith("secret"):
            raise PermissionError("secret")
        names = {"top": "directory", "top/a": "file", "top/secret": "directory"}
        below = [name for name in names if name.startswith(f"{path}/") and "/" not in name[len(path) + 1 :]]
        return [{"name": name, "type": names[name], "size": 1} for name in below] if detail else below


def test_a_listing_is_whole_or_an_error_on_any_storage() -> None:
    fs = Refusing()
    with pytest.raises(PermissionError):
        find_files(fs, "top")
    with pytest.raises(PermissionError):
        list(expand_glob(fs, "top/*/x"))
    assert [path for path, _ in expand_glob(fs, "top/a*")] == ["top/a"]


class Told(dict[str, Any]):
    """What a storage tells about a file; remembers how many are held at once."""

    held = most = 0

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        Told.held += 1
        Told.most = max(Told.most, Told.held)

    def __del__(self) -> None:
        Told.held -= 1


class Large(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """Twenty folders of twenty files."""

    protocol = "large"

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:  # noqa: ARG002
        kind = "directory" if path == "top" else "file"
        return [Told(name=f"{path}/{i:02}", type=kind, size=i, ETag=f"{path}{i}", more="x" * 999) for i in range(20)]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        if "*" in path:
            raise FileNotFoundError(path)
        return {"name": path, "type": "directory", "size": 0}


@pytest.mark.parametrize("entry", ["large://top", "large://top/*/*", "large://top/**"])
def test_what_a_storage_tells_about_a_file_is_not_kept(entry: str) -> None:
    fsspec.register_implementation("large", Large, clobber=True)
    Told.most = Told.held
    assert len(list_files([entry], {})) == 400
    assert Told.most < 100, "of two folders at most, the one within the other"


def test_files_of_a_folder_share_its_name() -> None:
    fsspec.register_implementation("large", Large, clobber=True)
    assert len({id(file.folder) for file in list_files(["large://top"], {})}) == 20


def test_s3_is_listed_page_by_page(s3: S3Server) -> None:
    root = f"{s3.bucket}/{uuid4().hex}"
    fs = s3.s3fs()
    for name in ("a", "b", "c/d", "c/e/f", "g"):
        fs.pipe_file(f"{root}/{name}", name.encode())
    pages, plain = [], fs.call_s3

    def counted(method: str, **request: Any) -> Any:
        pages.append(method)
        return plain(method, **request, MaxKeys=2)

    fs.call_s3 = counted
    try:
        found = dict(stream_files(fs, root))
        below = {path: what["type"] for path, what in children(fs, root)}
    finally:
        del fs.call_s3
    assert {path: (what["size"], what["ETag"]) for path, what in found.items()} == {
        path: (what["size"], what["ETag"]) for path, what in fs.find(root, detail=True).items()
    }
    assert below == {f"{root}/a": "file", f"{root}/b": "file", f"{root}/c": "directory", f"{root}/g": "file"}
    assert pages == ["list_objects_v2"] * 5


def test_the_version_changes_when_the_content_does(tmp_path: Path) -> None:
    touch(tmp_path, "a.x")
    os.utime(tmp_path / "a.x", (0, 0))  # a time that is false in a condition
    before = list_files([str(tmp_path)], {})[0].version
    os.utime(tmp_path / "a.x", (1, 1))
    assert before != list_files([str(tmp_path)], {})[0].version
    assert before == "0.0"


def test_folders_are_counted_from_the_root(tmp_path: Path) -> None:
    touch(tmp_path, "k=1/a.x", "k=2/j=3/b.x")
    folders = {file.name.rpartition("/")[2]: file.folder for file in list_files([str(tmp_path)], {})}
    assert folders == {"a.x": "k=1", "b.x": "k=2/j=3"}
    assert [file.folder for file in list_files([f"{tmp_path}/k=*/*.x"], {})] == ["k=1"]
    assert [file.folder for file in list_files([f"{tmp_path}/k=1"], {})] == [""]


# ---------------------------------------------------------------- spelling


@pytest.mark.parametrize(
    "uri",
    ["rel/x", "/abs/x", "~/x", "file:///abs/x", "local:///abs/x", "/", "/a b#%=[1]/x", "memory://a/b", "memory:///a/b"],
)
def test_what_is_spelled_is_located_again(uri: str) -> None:
    fs, path = locate(absolute(uri))
    child = f"{path.rstrip('/')}/child name"
    spelled = uri_of_path(fs, child, absolute(uri))
    assert locate(spelled)[1] == child
    assert absolute(spelled) == spelled


class Remote:
    """The part of a remote file system that `uri_of_path` asks."""

    protocol = "remote"

    def __init__(self, strip: str, unstrip: str = "") -> None:
        self._strip, self._unstrip = strip, unstrip

    def _strip_protocol(self, _: str) -> str:
        return self._strip

    def unstrip_protocol(self, path: str) -> str:
        return self._unstrip + path


@pytest.mark.parametrize(
    ("like", "inside", "path", "expected"),
    [
        ("s3://b/k/*.x", "b/k/*.x", "b/k/1.x", "s3://b/k/1.x"),
        ("s3://anonymous@b/k/", "b/k", "b/k/1.x", "s3://anonymous@b/k/1.x"),
        ("hdfs://host:8020/d", "/d", "/d/1.x", "hdfs://host:8020/d/1.x"),
        ("sftp://me@host/d", "/d", "/d/1.x", "sftp://me@host/d/1.x"),
        ("abfs://c@acct.dfs.core.windows.net/d", "c/d", "c/d/1.x", "abfs://c@acct.dfs.core.windows.net/d/1.x"),
        ("https://h/d/a.x", "https://h/d/a.x", "https://h/d/a.x", "https://h/d/a.x"),
        ("simplecache::s3://b/k", "b/k", "b/k/1.x", "simplecache::s3://b/k/1.x"),
        ("odd://x", "y", "y/1.x", "odd://y/1.x"),
    ],
)
def test_user_and_host_stay_in_the_spelling(like: str, inside: str, path: str, expected: str) -> None:
    assert uri_of_path(Remote(inside, "odd://"), path, like) == expected


def test_chained_uris_are_listed_and_spelled(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("a.csv", "x\n1\n")
        archive.writestr("deep/b.csv", "x\n2\n")
    found = list_files([f"zip://**::{tmp_path}/in.zip"], {})
    assert [file.name for file in found] == [f"zip://a.csv::{tmp_path}/in.zip", f"zip://deep/b.csv::{tmp_path}/in.zip"]
    fs, path = locate(found[1].name)
    assert fs.cat_file(path) == b"x\n2\n"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def website(tmp_path: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_file_of_a_website_keeps_its_address(tmp_path: Path, website: str) -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp")
    touch(tmp_path, "a.x")
    assert [(file.name, file.size) for file in list_files([f"{website}/a.x"], {})] == [(f"{website}/a.x", 1)]


@pytest.mark.parametrize(("uri", "told"), [("nope://b/k", "nope"), ("gs://b/k", "pip install gcsfs")])
def test_a_protocol_that_is_not_there_is_told_with_its_package(uri: str, told: str) -> None:
    if uri.startswith("gs://"):
        try:
            import gcsfs  # type: ignore[import-not-found]  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("gcsfs is installed")
    with pytest.raises(ConfigError, match=told):
        list_files([uri], {})
