"""Which errors of a storage a later try may not meet: throttling, 5xx, timeouts, broken connections; and when to try again."""

from __future__ import annotations

import errno
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")

FIRST_BACKOFF = 0.5
LONGEST_BACKOFF = 30.0
LOOKING_SECONDS = 60.0  # after which looking at the input is not tried again
MORE_TRIES = 4  # of one small request, such as a record of the driver's own

TRANSIENT_ERRNO = frozenset(
    {errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.EPIPE, errno.ESTALE, errno.ETIMEDOUT}
    | {errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.ENETRESET, errno.EHOSTUNREACH, errno.ENETUNREACH}
)
# Of S3, where the code says more than the status.
TRANSIENT_CODES = frozenset(
    {"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException"}
    | {"TooManyRequests", "RequestLimitExceeded", "OperationAborted", "ConditionalRequestConflict", "IncompleteBody"}
    # An upload whose end was asked for twice because the first answer was lost; writing it all again works.
    | {"NoSuchUpload"}
)
# Package to its base classes of network trouble, by name: none of them may be imported to be recognised.
NETWORK_TROUBLE: Mapping[str, frozenset[str]] = {
    "aiohttp": frozenset({"ClientConnectionError", "ClientPayloadError"}),
    "azure": frozenset({"ServiceRequestError", "ServiceResponseError", "IncompleteReadError"}),
    "botocore": frozenset({"HTTPClientError", "ConnectionError", "IncompleteReadError"}),
    "google": frozenset({"TransportError"}),
    "http": frozenset({"IncompleteRead", "RemoteDisconnected"}),
    "httpx": frozenset({"TransportError"}),
    "requests": frozenset({"ConnectionError", "Timeout", "ChunkedEncodingError"}),
    "urllib3": frozenset({"ProtocolError", "TimeoutError", "MaxRetryError"}),
}

STORAGE_CLIENTS = frozenset(NETWORK_TROUBLE) | {
    *("adbc_driver_manager", "adlfs", "aiobotocore", "deltalake", "fsspec", "gcsfs", "hdfs_native", "huggingface_hub"),
    *("obstore", "paramiko", "pyiceberg", "s3fs", "smbprotocol"),
}


def backoff(tries: int, jitter: float) -> float:
    """Seconds before try number `tries` + 1: doubling from 0.5 s to 30 s, times 0.5 to 1 by `jitter` (0 to 1)."""
    return min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0**tries) * (0.5 + jitter / 2)


def retrying(
    act: Callable[[], T],
    more: int = MORE_TRIES,
    *,
    within: float = math.inf,
    sleep: Callable[[float], object] = time.sleep,
    jitter: Callable[[], float] = random.random,
    now: Callable[[], float] = time.monotonic,
) -> T:
    """Do what may be done twice, and `more` times again while its errors are transient; the last error is raised.

    Once `within` seconds have passed, nothing is tried again: a storage that answers nothing until each request times out must
    not keep people waiting several times as long.
    """
    started = now()
    for tries in range(more):
        try:
            return act()
        except Exception as error:
            if not is_transient(error) or now() - started > within:
                raise
        sleep(backoff(tries, jitter()))
    return act()


def is_transient(error: BaseException) -> bool:
    """Whether the same operation may succeed later. What a server answered decides, else what the system said."""
    chain = list(_chain(error))
    for verdict in (_of_answer, _of_error):
        if known := [found for each in chain if (found := verdict(each)) is not None]:
            return known[0]
    return False


def is_of_storage(error: BaseException) -> bool:
    """Whether a file system or a store's client raised this, or what it was raised from, and not our own code or an encoder's."""
    return (
        isinstance(error, OSError)
        or type(error).__module__.partition(".")[0] in STORAGE_CLIENTS
        or (error.__cause__ is not None and is_of_storage(error.__cause__))
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it, as a traceback would show them."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _of_answer(error: BaseException) -> bool | None:
    """By a server's answer, `None` if the error carries none."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore's ClientError
        return _of_s3(response)
    if isinstance(error, OSError) and error.errno is not None:
        return None
    statuses = (
        getattr(holder, name, None) for holder in (error, response) for name in ("status", "status_code", "code")
    )
    status = next((each for each in statuses if isinstance(each, int) and 400 <= each < 600), None)
    return None if status is None else _is_transient_status(status)


def _of_s3(response: Mapping[str, Mapping[str, object]]) -> bool:
    code = response.get("Error", {}).get("Code")
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if status is None and isinstance(code, str) and code.isdecimal():
        status = int(code)
    return code in TRANSIENT_CODES or (isinstance(status, int) and _is_transient_status(status))


def _is_transient_status(status: int) -> bool:
    return status in {408, 429} or (status >= 500 and status != 501)


def _of_error(error: BaseException) -> bool | None:
    """By the kind of error, `None` if it is of no kind that tells."""
    if isinstance(error, PermissionError | FileNotFoundError | FileExistsError) or _is_a(error, "s3fs", "FileExpired"):
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNO:
        return True
    package = type(error).__module__.partition(".")[0]
    return True if any(_is_a(error, package, name) for name in NETWORK_TROUBLE.get(package, ())) else None


def _is_a(error: BaseException, package: str, name: str) -> bool:
    """Whether a base class of that name comes from the package."""
    return any(kind.__name__ == name and kind.__module__.partition(".")[0] == package for kind in type(error).__mro__)
