"""S3 through obstore, as an fsspec file system: the methods that this program calls, at a fraction of the CPU that s3fs takes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile

from runner.storage.parallel import map_in_threads
from runner.storage.s3_options import S3Options
from runner.storage.transience import Changed

PAGE = 1000  # objects of a listing that are held at a time: what S3 tells in one answer
AT_ONCE = 8  # requests that one call sends at the same time
CREDENTIALS_SECONDS = (
    600  # credentials that botocore found are asked for again after this time: botocore renews them by itself
)
# Names of objects that obstore cannot spell: an empty segment, `.` or `..`, a control character.
UNNAMEABLE = re.compile(r"(^|/)(\.{0,2})(/|$)|[\x00-\x1f\x7f]")
ETAG = re.compile(r"[0-9a-f]{32}(-\d+)?")  # of S3; the version of an input may be something else, such as a time
STATUS = re.compile(r"status code: (\d{3})")
CODE, MESSAGE = re.compile(r"<Code>([^<]*)</Code>"), re.compile(r"<Message>([^<]*)</Message>")
NO_ANSWER = re.compile("HTTP error|error decoding|timed out|timeout|connection", re.IGNORECASE)
DEBUG = "\n\nDebug source:"  # what follows in obstore's messages is for its developers


CONFLICTS = frozenset(
    {"ConditionalRequestConflict", "OperationAborted"}
)  # another request is in flight: nobody has the name yet


class Answer(Exception):
    """What the server answered, in botocore's form, which `transience` knows."""

    def __init__(self, code: str, message: str, status: int) -> None:
        """Take the code and the message of S3, and the status of HTTP."""
        super().__init__(f"{code}: {message}" if code else f"status {status}")
        self.code = code
        self.response = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}


class S3Objects(AbstractFileSystem):  # type: ignore[misc]
    """The buckets of one S3. Paths are `bucket/key`, as with s3fs.

    Attributes:
        plain: Makes fsspec's own file system of the same options, for what obstore cannot name.
    """

    protocol: ClassVar[tuple[str, ...]] = ("s3", "s3a")
    cachable = False  # `locations` keeps one for each process

    plain: Callable[[], Any]

    def __init__(self, how: S3Options) -> None:
        """Take the options. Nothing is connected before the first request."""
        super().__init__(use_listings_cache=False)
        self._how = how
        self._stores: dict[str, Any] = {}

    def _store(self, bucket: str) -> Any:
        if bucket not in self._stores:
            self._stores[bucket] = _connected(bucket, self._how)
        return self._stores[bucket]

    def _at(self, path: str) -> tuple[Any, str]:
        """Return the bucket's store and the key of a path."""
        bucket, _, key = self._strip_protocol(path).partition("/")
        return self._store(bucket), key

    # ------------------------------------------------ reading

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **more: Any) -> bytes:
        """Return an object's bytes, or those from `start` to `end`."""
        return bytes(self.fetch(path, start, end, **more))

    def fetch(self, path: str, start: int | None = None, end: int | None = None, version: str = "") -> memoryview:
        """Return an object's bytes, or those from `start` to `end`, without copying them.

        Args:
            path: Of the object.
            start: The first byte.
            end: The byte after the last one.
            version: The etag that the object must have. Anything that is not an etag of S3 has no effect.

        Raises:
            Changed: It has another etag.
        """
        import obstore

        store, key = self._at(path)
        if start is not None and start == end:
            return memoryview(b"")
        wanted: Any = (
            None if start is None and end is None else {"offset": start or 0} if end is None else (start or 0, end)
        )
        options = {
            **({} if wanted is None else {"range": wanted}),
            **({"if_match": f'"{version}"'} if ETAG.fullmatch(version) else {}),
        }
        with translated_errors(path):
            return memoryview(obstore.get(store, key, options=options).bytes())

    def fetch_ranges(self, path: str, ranges: Sequence[tuple[int, int]], version: str = "") -> list[memoryview]:
        """Return the bytes of several ranges, each (start, end), fetched at the same time. See `fetch`."""
        if len(ranges) == 1:
            return [self.fetch(path, *ranges[0], version)]
        return [*map_in_threads(lambda each: self.fetch(path, *each, version), ranges, min(AT_ONCE, len(ranges) or 1))]

    # ------------------------------------------------ listing

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return what is known of an object; or that it is a folder, which is one if an object lies below it.

        Raises:
            FileNotFoundError: Neither is there.
        """
        import obstore

        store, key = self._at(path)
        with contextlib.suppress(FileNotFoundError):
            if key:
                with translated_errors(path):
                    return _described(path, obstore.head(store, key))
        with translated_errors(path):
            if not key or next(iter(obstore.list(store, f"{key}/", chunk_size=1)), None):
                return {"name": path, "type": "directory", "size": 0}
        raise FileNotFoundError(path)

    def files_below(self, folder: str) -> Iterator[dict[str, Any]]:
        """Yield every object below a folder, one page of the listing in memory at a time."""
        import obstore

        store, key = self._at(folder)
        bucket = folder.partition("/")[0]
        last = ""
        try:
            with translated_errors(folder):
                for page in obstore.list(store, f"{key}/" if key else None, chunk_size=PAGE):
                    for each in self._without_markers(store, page):
                        yield _described(last := f"{bucket}/{each['path']}", each)
        except Unnameable:
            yield from (what for name, what in self.plain().find(folder, detail=True).items() if name > last)

    def entries(self, folder: str) -> list[dict[str, Any]]:
        """Return the objects and folders that lie directly in a folder."""
        import obstore

        store, key = self._at(folder)
        bucket = folder.partition("/")[0]
        try:
            with translated_errors(folder):
                found = obstore.list_with_delimiter(store, f"{key}/" if key else None)
                files = [_described(f"{bucket}/{e['path']}", e) for e in self._without_markers(store, found["objects"])]
        except Unnameable:
            return list(self.plain().ls(folder, detail=True))
        return [
            *({"name": f"{bucket}/{each}", "type": "directory", "size": 0} for each in found["common_prefixes"]),
            *files,
        ]

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """Return the entries of a folder, or their names."""
        found = self.entries(self._strip_protocol(path))
        return found if detail else [each["name"] for each in found]

    def _without_markers(self, store: Any, page: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """Leave out the empty objects that consoles make to mark a folder.

        Their key ends in `/`, but obstore lists them without it, as if they were empty files. So it is asked for such a file by its
        name: a marker is not found by it. Empty files are rare, and so is that request.
        """
        import obstore

        for each in page:
            if each["size"] == 0:
                try:
                    obstore.head(store, each["path"])
                except FileNotFoundError:
                    continue
            yield each

    # ------------------------------------------------ writing

    def rm_file(self, path: str) -> None:
        """Delete an object; it is no error if there is none."""
        import obstore

        store, key = self._at(path)
        with translated_errors(path), contextlib.suppress(FileNotFoundError):
            obstore.delete(store, key)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing: an object needs no folder."""

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **_: Any) -> Any:
        store, key = self._at(path)
        if mode == "rb":
            return Reading(self, path, mode, block_size or "default")
        return Creation(path, store, key) if mode == "xb" else Upload(path, store, key, self._how.block_bytes)


class Reading(AbstractBufferedFile):  # type: ignore[misc]
    """An object that is read in blocks, each with one request; all of them must be of the same version of the object."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        return bytes(self.fs.fetch(self.path, start, end, self.details["ETag"].strip('"')))


class Upload:
    """An object that is being written. It appears when it is closed; `discard` aborts it instead."""

    closed = False

    def __init__(self, path: str, store: Any, key: str, block: int) -> None:
        """Take where it is to appear, and in blocks of how many bytes a large object is sent."""
        import obstore

        self._path = path
        self._writer = obstore.open_writer(store, key, buffer_size=block, max_concurrency=4)

    def write(self, data: Any) -> int:
        """Write all of a bytes-like object."""
        with translated_errors(self._path):
            self._writer.write(data)
        return memoryview(data).nbytes

    def close(self) -> None:
        """Complete the upload."""
        if not self.closed:
            with translated_errors(self._path):
                self._writer.close()
            self.closed = True

    def discard(self) -> None:
        """Abort the upload: obstore does so where its writer is left by an error."""
        with translated_errors(self._path):
            self._writer.__exit__(RuntimeError, RuntimeError("discarded"), None)

    def __enter__(self) -> Upload:
        """Return the file itself."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Complete the upload, or abort it if the block ended with an error."""
        (self.close if kind is None else self.discard)()


class Creation(Upload):
    """A small object that appears only if none has its name: one conditional PUT of all its bytes."""

    def __init__(self, path: str, store: Any, key: str) -> None:
        """Take where it is to appear."""
        self._path, self._store, self._key, self._held = path, store, key, bytearray()

    def write(self, data: Any) -> int:
        """Keep all of a bytes-like object."""
        self._held += data
        return memoryview(data).nbytes

    def close(self) -> None:
        """Send what was written.

        Raises:
            FileExistsError: There is an object of this name.
        """
        import obstore

        if not self.closed:
            with translated_errors(self._path):
                obstore.put(self._store, self._key, bytes(self._held), mode="create", use_multipart=False)
            self.closed = True

    def discard(self) -> None:
        """Do nothing: nothing has been sent."""


class Unnameable(ValueError):
    """An object has a name that obstore cannot spell."""


def nameable(path: str) -> bool:
    """Return whether obstore can spell a path."""
    return UNNAMEABLE.search(path.rstrip("/")) is None


def _described(path: str, found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": path, "type": "file", "size": found["size"], "ETag": found["e_tag"] or "", "LastModified": found["last_modified"],
    }  # fmt: skip


# ---------------------------------------------------------------- connecting


def _connected(bucket: str, how: S3Options) -> Any:
    from obstore.store import S3Store

    session = None if how.key or how.anonymous else _botocore(how.profile)
    config: dict[str, Any] = {"region": _region(bucket, how), "disable_bulk_delete": True}
    if how.endpoint:
        config["aws_endpoint_url_s3"] = how.endpoint
    if how.requester_pays:
        config["request_payer"] = True
    access = {"skip_signature": True} if how.anonymous else {}
    provider = {} if how.anonymous else {"credential_provider": _credentials(how, session)}
    return S3Store(
        bucket,
        config={**config, **access},
        client_options=how.client(),
        retry_config=how.retrying(),
        **provider,
    )


def _region(bucket: str, how: S3Options) -> str:
    """Return where AWS says that a bucket is, since the region of the environment is where people work; other servers take any region.

    Raises:
        FileNotFoundError: There is no such bucket.
        ConnectionError: Nobody tells the region.
    """
    if how.endpoint:
        return how.region or "us-east-1"
    from pyarrow.fs import resolve_s3_region

    try:
        return str(resolve_s3_region(bucket))
    except OSError as error:
        if "not found" in str(error):
            raise FileNotFoundError(f"s3://{bucket}: there is no such bucket") from error
        if how.region:
            return how.region
        raise ConnectionError(f"s3://{bucket}: its region cannot be found: {error}") from error


def _botocore(profile: str | None) -> Any:
    from botocore.session import Session

    return Session(profile=profile)


def _credentials(how: S3Options, session: Any) -> Callable[[], dict[str, Any]]:
    """Return a function that obstore calls for credentials, at first and whenever those that it has are out of date.

    Raises:
        PermissionError: botocore finds no credentials.
    """
    if session is None:
        static = {"access_key_id": how.key, "secret_access_key": how.secret, "token": how.token, "expires_at": None}
        return lambda: static
    found = session.get_credentials()
    if found is None:
        raise PermissionError("no credentials were found (storage_options, the environment and ~/.aws may hold some)")

    def current() -> dict[str, Any]:
        now = found.get_frozen_credentials()
        expires = datetime.now(UTC) + timedelta(seconds=CREDENTIALS_SECONDS)
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": expires,
        }

    return current


# ---------------------------------------------------------------- errors


@contextlib.contextmanager
def translated_errors(path: str) -> Iterator[None]:
    """Raise obstore's errors in the block as those that Python has for files. `path` is for messages.

    Raises:
        FileNotFoundError: There is no such object, or no such bucket.
        FileExistsError: There is an object of this name.
        PermissionError: Access was refused.
        Changed: The object has another etag.
        ConnectionError: No answer came, or not all of it.
        OSError: Anything else that the server answered.
        Unnameable: An object has a name that obstore cannot spell.
    """
    from obstore import exceptions

    try:
        yield
    except exceptions.InvalidPathError as error:
        raise Unnameable(_text(error)) from None
    except exceptions.PreconditionError:
        raise Changed(f"s3://{path}: has changed") from None
    except (exceptions.BaseError, OSError) as error:
        raise _translated(error, path) from _answer(str(error))


def _translated(error: Exception, path: str) -> OSError:
    from obstore import exceptions

    text, status = str(error), STATUS.search(str(error))
    answer = _answer(text)
    code = int(status[1]) if status else 0
    words = str(answer) if answer and MESSAGE.search(text) else _text(error)
    if isinstance(error, FileNotFoundError) or code == 404:
        return FileNotFoundError(words)
    conflict = answer is not None and answer.code in CONFLICTS
    if isinstance(error, exceptions.AlreadyExistsError) and not conflict:
        return FileExistsError(words)
    if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError) or code in {401, 403}:
        return PermissionError(words)
    elsewhere = "redirect without LOCATION" in text  # the bucket is in another region
    kind = ConnectionError if not status and not elsewhere and NO_ANSWER.search(text) else OSError
    return kind(f"s3://{path}: {words}")


def _answer(text: str) -> Answer | None:
    status, code, message = STATUS.search(text), CODE.search(text), MESSAGE.search(text)
    return Answer(code[1] if code else "", message[1] if message else "", int(status[1])) if status else None


def _text(error: Exception) -> str:
    return str(error).partition(DEBUG)[0].partition("\n")[0]
