"""Tell transient errors (of a storage, of a model's server) from lasting ones, retry, and say how long to wait."""

from __future__ import annotations

import errno
import math
import random
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from runner.words.exceptions import led_to

T = TypeVar("T")

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
LOOKING_SECONDS = 60.0  # after this time, no request that lists or inspects the input is retried
MORE_TRIES = 4  # retries of one small request, such as reading a record

TRANSIENT_ERRNO = frozenset(
    {errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.EPIPE, errno.ESTALE, errno.ETIMEDOUT}
    | {errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.ENETRESET, errno.EHOSTUNREACH, errno.ENETUNREACH}
)
# Error codes of S3 that are transient: there, the code says more than the HTTP status.
TRANSIENT_CODES = frozenset(
    {"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException"}
    | {"TooManyRequests", "RequestLimitExceeded", "OperationAborted", "ConditionalRequestConflict", "IncompleteBody"}
    # The completion of a multipart upload was sent twice, because the first answer was lost. A new upload of the file works.
    | {"NoSuchUpload"}
)
# Package to the names of its base classes of network errors. They are compared by name, because no such package may be imported here.
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
    """Return the seconds to wait after `tries` + 1 failed tries: 0.5 s, doubled each time up to 30 s, times 0.5 to 1.

    Args:
        tries: Tries that had failed before the last one.
        jitter: Random number from 0 to 1, which chooses the factor between 0.5 and 1.
    """
    return min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0**tries) * (0.5 + jitter / 2)


def retrying(
    act: Callable[[], T],
    more: int = MORE_TRIES,
    *,
    within: float = math.inf,
    sleep: Callable[[float], object] = time.sleep,
    jitter: Callable[[], float] = random.random,
    now: Callable[[], float] = time.monotonic,
) -> T:
    """Call `act`, and call it again while it raises transient errors.

    Args:
        act: Something that may be done twice.
        more: How many times it is called again at most.
        within: Seconds after which it is not called again. A storage whose every request times out would otherwise keep people
            waiting for several such times.
        sleep: Waits some seconds.
        jitter: Returns a random number from 0 to 1.
        now: Returns the time in seconds.

    Returns:
        What `act` returned.

    Raises:
        Exception: The last error of `act`.
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


class Changed(OSError):
    """A remote file is not the one any more that was listed."""


def is_transient(error: BaseException) -> bool:
    """Return whether the same operation may succeed later. A server's answer decides if there is one, else the type of the error."""
    chain = list(led_to(error))
    for verdict in (_by_response, _by_type):
        if known := [found for each in chain if (found := verdict(each)) is not None]:
            return known[0]
    return False


def is_of_storage(error: BaseException) -> bool:
    """Return whether a file system or the client of a storage raised this error, or one that caused it.

    It tells such errors from those of our own code and of libraries that encode files.
    """
    for each in led_to(error):
        if isinstance(each, OSError) or type(each).__module__.partition(".")[0] in STORAGE_CLIENTS:
            return True
        if each.__cause__ is None:
            return False
    return False


def _by_response(error: BaseException) -> bool | None:
    """Return whether an error is transient by the server's response that it carries; `None` if it carries none."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore's ClientError
        return _is_transient_s3_error(response)
    if isinstance(error, OSError) and error.errno is not None:
        return None
    statuses = (
        getattr(holder, name, None) for holder in (error, response) for name in ("status", "status_code", "code")
    )
    status = next((each for each in statuses if isinstance(each, int) and 400 <= each < 600), None)
    return None if status is None else _is_transient_status(status)


def _is_transient_s3_error(response: Mapping[str, Mapping[str, object]]) -> bool:
    code = response.get("Error", {}).get("Code")
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if status is None and isinstance(code, str) and code.isdecimal():
        status = int(code)
    return code in TRANSIENT_CODES or (isinstance(status, int) and _is_transient_status(status))


def _is_transient_status(status: int) -> bool:
    return status in {408, 429} or (status >= 500 and status != 501)


def _by_type(error: BaseException) -> bool | None:
    """Return whether an error is transient by its type; `None` if its type does not tell."""
    if isinstance(error, PermissionError | FileNotFoundError | FileExistsError) or _is_instance_by_name(
        error, "s3fs", "FileExpired"
    ):
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNO:
        return True
    package = type(error).__module__.partition(".")[0]
    return (
        True if any(_is_instance_by_name(error, package, name) for name in NETWORK_TROUBLE.get(package, ())) else None
    )


def _is_instance_by_name(error: BaseException, package: str, name: str) -> bool:
    """Return whether the error's class or a base of it has this name and comes from this package."""
    return any(kind.__name__ == name and kind.__module__.partition(".")[0] == package for kind in type(error).__mro__)
