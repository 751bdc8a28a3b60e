"""A reverse HTTP proxy that injects faults between a client and a real S3 server: errors, latency, stalls, resets.

Its loop runs in a thread of this process, so that a test changes its plan and reads its counts directly; clients in other
processes reach it on its port like any server.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web
from servers import HOST, S3Server
from yarl import URL

_ANY = r""
_CHUNK = 64 * 1024
# About one connection only; `Expect` is answered by the proxy itself.
_OF_ONE_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "expect", "te", "upgrade"})
_NO_ANSWER = 0
_BROKEN = 599  # of answers that are never sent
_TEXTS = {403: "AccessDenied", 500: "InternalError", 503: "SlowDown"}

What = Literal["error", "slow", "stall", "deaf", "reset", "lose"]


@dataclass
class Fault:
    """What happens to requests that match, while it is planned.

    Attributes:
        what: `error`: answer with `status`, the body read but not passed on. `slow`: pass on after `seconds`. `stall`: read
            the request, and never answer. `deaf`: never read the body. `reset`: break the connection after `after_bytes`
            of the body. `lose`: pass it on, and break the connection instead of answering.
        methods: HTTP methods, separated by blanks; empty for all.
        target: A pattern that is searched in path and query.
        fraction: Of the matching requests, chosen by the proxy's seeded generator.
        times: At most so many; `None` for no end.
        since: A pattern of `METHOD target`: begins once such a request has been answered well.
    """

    what: What
    methods: str = ""
    target: str = _ANY
    fraction: float = 1.0
    times: int | None = None
    since: str = ""
    status: int = 503
    seconds: float = 0.0
    after_bytes: int = 0

    def concerns(self, seen: Seen) -> bool:
        """Whether the request is of the kind that is meant."""
        return (not self.methods or seen.method in self.methods.split()) and bool(re.search(self.target, seen.target))


@dataclass(frozen=True)
class Seen:
    """A request and its answer.

    Attributes:
        method: Of HTTP.
        target: Path and query.
        status: Of the answer; 0 where there was none.
        fault: What was done to it, `None` if it passed.
        size: Bytes of the answer that was passed on.
    """

    method: str
    target: str
    status: int = _NO_ANSWER
    fault: What | None = None
    size: int = 0


@dataclass
class Proxy:
    """A running proxy.

    Attributes:
        server: The same server, reached through the proxy.
        seen: Every request that has come to its end, in that order.
    """

    server: S3Server
    seen: list[Seen] = field(default_factory=list)
    _faults: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _random: random.Random = field(default_factory=random.Random)

    def plan(self, *faults: Fault, seed: int = 0) -> None:
        """Replace the plan, and forget what was seen; of several faults that match, the first is taken."""
        with self._lock:
            self._faults, self._random = [replace(fault) for fault in faults], random.Random(seed)
            self.seen.clear()

    def calm(self) -> None:
        """Pass everything on from now."""
        self.plan()

    def count(self, methods: str = "", target: str = _ANY, *, status: int | None = None) -> int:
        """How many requests of that kind were seen since the plan was made."""
        kind = Fault("error", methods, target)
        with self._lock:
            return sum(kind.concerns(each) and status in {None, each.status} for each in self.seen)

    def faults(self, what: What | None = None) -> int:
        """How many requests did not simply pass since the plan was made."""
        with self._lock:
            return sum(each.fault is not None and what in {None, each.fault} for each in self.seen)

    def take(self, seen: Seen) -> Fault | None:
        """The fault for a request that has just come, counted."""
        with self._lock:
            for fault in self._faults:
                if fault.since or fault.times == 0 or not fault.concerns(seen):
                    continue
                if self._random.random() < fault.fraction:
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return None

    def note(self, seen: Seen) -> None:
        """Remember how a request ended; what waited for it begins."""
        with self._lock:
            self.seen.append(seen)
            for fault in self._faults:
                if 200 <= seen.status < 300 and fault.since and re.search(fault.since, f"{seen.method} {seen.target}"):
                    fault.since = ""


@contextlib.contextmanager
def proxy(server: S3Server) -> Iterator[Proxy]:
    """Run a proxy before a server, on a free loopback port, with nothing planned."""
    listening = socket.create_server((HOST, 0))
    port = listening.getsockname()[1]
    made = Proxy(replace(server, endpoint=f"http://{HOST}:{port}"))
    loop = asyncio.new_event_loop()
    handler = _Handler(made, server.endpoint)
    thread = threading.Thread(target=loop.run_forever, name="proxy", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(handler.start(listening), loop).result(30)
        yield made
    finally:
        asyncio.run_coroutine_threadsafe(handler.stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Handler:
    """Passes requests on, or does to them what the plan says."""

    def __init__(self, state: Proxy, upstream: str) -> None:
        self._state, self._upstream = state, upstream
        self._client: ClientSession
        self._runner: web.ServerRunner
        self._closing = asyncio.Event()

    async def start(self, listening: socket.socket) -> None:
        self._client = ClientSession(
            auto_decompress=False, timeout=ClientTimeout(total=60), connector=TCPConnector(limit=0, force_close=True)
        )
        # Connections of clients that died or were stalled must not hold up the end.
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.SockSite(self._runner, listening).start()

    async def stop(self) -> None:
        self._closing.set()
        await self._runner.cleanup()
        await self._client.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        seen = Seen(request.method, request.raw_path)
        fault = self._state.take(seen)
        what = None if fault is None else fault.what
        status, size = _NO_ANSWER, 0
        _go_on(request)
        try:
            answer = await (self._pass(request) if fault is None else self._disturb(fault, request))
            status = _NO_ANSWER if answer.status == _BROKEN else answer.status
            size = int(answer.headers.get("Content-Length", 0))
            return answer
        finally:
            self._state.note(replace(seen, status=status, fault=what, size=size))

    async def _disturb(self, fault: Fault, request: web.BaseRequest) -> web.StreamResponse:
        if fault.what == "error":
            return await _refusal(fault.status, request)
        if fault.what == "slow":
            await asyncio.sleep(fault.seconds)
            return await self._pass(request)
        if fault.what == "lose":
            async with self._ask(request) as answer:
                await answer.read()
        elif fault.what == "reset":
            await _read(request, fault.after_bytes)
        else:
            await self._never(request, listen=fault.what == "stall")
        return _broken(request)

    async def _never(self, request: web.BaseRequest, *, listen: bool) -> None:
        """Keep the connection open without a word, as long as the client does."""
        if listen:
            await _read(request)
        while not self._closing.is_set() and request.transport is not None and not request.transport.is_closing():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), 0.1)

    # ------------------------------------------------ passing on

    def _ask(self, request: web.BaseRequest) -> Any:
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _OF_ONE_HOP]
        return self._client.request(
            request.method,
            URL(self._upstream + request.raw_path, encoded=True),  # as it was signed, and so is the Host header
            headers=headers,
            data=_body(request) if request.body_exists else None,
            allow_redirects=False,
            skip_auto_headers=["Accept", "Accept-Encoding", "User-Agent", "Content-Type"],
        )

    async def _pass(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            async with self._ask(request) as answer:
                response = web.StreamResponse(status=answer.status, reason=answer.reason)
                for name, value in answer.headers.items():
                    if name.lower() not in _OF_ONE_HOP:
                        response.headers.add(name, value)
                await response.prepare(request)
                async for chunk in answer.content.iter_chunked(_CHUNK):
                    await response.write(chunk)
                await response.write_eof()
                return response
        except (ClientError, ConnectionError):  # either side left
            return _broken(request)


def _go_on(request: web.BaseRequest) -> None:
    """Tell a client that asks before it sends a body to send it; aiohttp leaves that to applications with routes."""
    if "Expect" in request.headers and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def _body(request: web.BaseRequest) -> AsyncIterator[bytes]:
    async for chunk in request.content.iter_chunked(_CHUNK):
        yield chunk


async def _read(request: web.BaseRequest, most: float = float("inf")) -> None:
    """Read the body until it ends, or so many bytes have come; `request.read` would refuse a large one."""
    got = 0
    while got < most and (chunk := await request.content.readany()):
        got += len(chunk)


async def _refusal(status: int, request: web.BaseRequest) -> web.Response:
    await _read(request)
    code = _TEXTS[status]
    text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>by plan</Message></Error>'
    return web.Response(status=status, body=text.encode(), content_type="application/xml")


def _broken(request: web.BaseRequest) -> web.Response:
    """Break the connection with a reset, as a peer that has died does."""
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response(status=_BROKEN)
