"""An HTTP/1.1 reverse proxy that watches and disturbs what passes: `Proxy`, `Record`, `Fault`.

It runs on an event loop in a thread of its own, so that tests of any event loop, and of none, use
it alike; whatever tests call is thread-safe. What it forwards is what it got: host, signature and
body. Bodies are held whole. A client that goes away does not recall its request, just as on a real
network; a server that gives no answer is passed on as a closed connection.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
import urllib.parse
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType

import h11

from tests.servers.wire import Link, Message, exchange, next_event, read_body, refusal

# An idle connection to the server is used again for this long: well under any server's patience,
# as a request that meets a closing connection would be lost, and none is ever sent twice.
IDLE_LIMIT = 1.0


@dataclass(frozen=True)
class Fault:
    """What befalls one request; see the constants and functions below."""

    kind: str
    delay: float = 0.0  # seconds
    code: int = 0


DROP_REQUEST = Fault("drop request")  # closes the client's connection and forwards nothing
DROP_RESPONSE = Fault("drop response")  # forwards, then closes the connection without an answer
TRUNCATE = Fault("truncate")  # sends half of the response's body; drops one that has no body


def late(seconds: float) -> Fault:
    """Close the client's connection at once, and forward the request that many seconds later."""
    return Fault("late", delay=seconds)


def status(code: int) -> Fault:
    """Answer with this status and S3's XML for it, and forward nothing."""
    return Fault("status", code=code)


@dataclass
class Record:
    """One request and what became of it. Times are those of `time.monotonic`, in seconds."""

    method: str
    path: str  # without the query, percent-decoded
    query: str  # as it was sent
    headers: dict[str, str]  # names in lower case, without Authorization
    started: float  # the head of the request had been read
    ended: float | None = None  # the answer, or the closing, was about to go to the client
    bytes_in: int = 0  # of the request's body
    bytes_out: int = 0  # of the response's body, as far as it was sent
    status: int | None = None  # what the client was sent; None if nothing
    upstream_status: int | None = None  # what the server answered; None if it was not asked yet
    fault: Fault | None = None


Plan = Callable[[Record], Fault | None]


def in_turn(
    *faults: Fault | None, method: str | None = None, path_contains: str | None = None
) -> Plan:
    """A plan: the first matching request meets the first fault (None: none), and so on."""
    left = list(faults)

    def plan(record: Record) -> Fault | None:
        return left.pop(0) if left and _matches(record, method, path_contains) else None

    return plan


def waves(records: list[Record]) -> int:
    """The length of the longest chain of requests, each begun after the one before had ended.

    This is the number of round trips in sequence, if `Proxy.latency` is much longer than a
    request takes by itself: without it, requests sent at once may still be served one by one.
    """
    length, reached = 0, float("-inf")
    # Taking the request that ends first leaves the most room for those after it.
    for ended, started in sorted((_end(record), record.started) for record in records):
        if started >= reached:
            length, reached = length + 1, ended
    return length


def _end(record: Record) -> float:
    return float("inf") if record.ended is None else record.ended


def _matches(record: Record, method: str | None, path_contains: str | None) -> bool:
    return (method is None or record.method == method) and (
        path_contains is None or path_contains in record.path
    )


class Proxy:
    """A proxy in front of `upstream_url` (http://host:port) while the context lasts.

    `latency` seconds are added to each request before it is forwarded; `plan` is asked once for
    each request, in the proxy's thread, which fault it meets. An error in the plan is raised when
    the context ends.
    """

    def __init__(self, upstream_url: str) -> None:
        parts = urllib.parse.urlsplit(upstream_url)
        assert parts.scheme == "http", upstream_url
        assert parts.path in ("", "/"), upstream_url
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self.latency = 0.0
        self.plan: Plan | None = None
        self._records: list[Record] = []
        self._changed = threading.Condition()
        self._active = 0
        self._errors: list[BaseException] = []
        self._idle: list[Link] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready: concurrent.futures.Future[int] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._ready.result(10)}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()
        if self._errors and error is None:
            raise self._errors[0]

    @property
    def requests(self) -> list[Record]:
        """The requests so far, in the order in which they came."""
        with self._changed:
            return list(self._records)

    def count(self, method: str | None = None, path_contains: str | None = None) -> int:
        """How many requests came, of a method, with a path that contains a text."""
        return sum(_matches(record, method, path_contains) for record in self.requests)

    def clear(self) -> None:
        """Forget the requests so far."""
        with self._changed:
            self._records.clear()

    def waves(self, method: str | None = None, path_contains: str | None = None) -> int:
        """The round trips in sequence among the matching requests; see the function `waves`."""
        return waves([r for r in self.requests if _matches(r, method, path_contains)])

    def settle(self, timeout: float = 10.0) -> None:
        """Wait until no request is under way, late ones included; TimeoutError after `timeout`."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._active == 0, timeout):
                raise TimeoutError(f"{self._active} requests were still under way")

    # From here on: the proxy's thread.

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self._errors.append(error)
            if not self._ready.done():
                self._ready.set_exception(error)

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self._ready.set_result(server.sockets[0].getsockname()[1])
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in self._idle:
            link.writer.transport.abort()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._stop.is_set():
            writer.transport.abort()
        else:
            self._spawn(self._serve(reader, writer))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._errors.append(error)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER)
        try:
            while await self._serve_one(reader, writer, http):
                http.start_next_cycle()
        except (ConnectionError, h11.RemoteProtocolError):
            pass  # the client went away, or speaks something else: its record says what it got
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        finally:
            writer.close()

    async def _serve_one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, http: h11.Connection
    ) -> bool:
        """Serve one request; whether the connection can take another."""
        head = await next_event(http, reader, writer)
        if not isinstance(head, h11.Request):
            return False
        record = self._record(head)
        try:
            message = Message(head)
            await read_body(message, http, reader, writer)
            record.bytes_in = len(message.body)
            record.fault = fault = self.plan(record) if self.plan is not None else None
            if fault == DROP_REQUEST:
                self._cut(record, writer)
                return False
            if fault is not None and fault.kind == "late":
                with self._changed:
                    self._active += 1
                self._spawn(self._forward_late(message, record, fault.delay))
                self._cut(record, writer)
                return False
            await asyncio.sleep(self.latency)
            if fault is not None and fault.kind == "status":
                response: Message | None = refusal(fault.code)
            else:
                response = await self._forward(message, record)
            dropped = fault == DROP_RESPONSE or (
                fault == TRUNCATE and response is not None and not response.body
            )
            if response is None or dropped:
                self._cut(record, writer)
                return False
            await self._answer(record, response, writer, http, whole=fault != TRUNCATE)
            return fault != TRUNCATE and http.our_state is http.their_state is h11.DONE
        finally:
            if record.ended is None:
                record.ended = time.monotonic()
            self._done()

    def _record(self, head: h11.Request) -> Record:
        path, _, query = head.target.decode("latin-1").partition("?")
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in head.headers}
        headers.pop("authorization", None)
        record = Record(
            head.method.decode(), urllib.parse.unquote(path), query, headers, time.monotonic()
        )
        with self._changed:
            self._records.append(record)
            self._active += 1
        return record

    def _done(self) -> None:
        with self._changed:
            self._active -= 1
            self._changed.notify_all()

    def _cut(self, record: Record, writer: asyncio.StreamWriter) -> None:
        record.ended = time.monotonic()
        writer.transport.abort()

    async def _answer(
        self,
        record: Record,
        response: Message,
        writer: asyncio.StreamWriter,
        http: h11.Connection,
        whole: bool,
    ) -> None:
        body = response.body if whole else response.body[: len(response.body) // 2]
        assert isinstance(response.head, h11.Response)
        code = response.head.status_code
        head = h11.Response(
            status_code=code, headers=response.headers(), reason=response.head.reason
        )
        sent = http.send(head) or b""
        if body and record.method != "HEAD":
            sent += http.send(h11.Data(data=bytes(body))) or b""
            record.bytes_out = len(body)
        if whole:
            sent += http.send(h11.EndOfMessage(headers=response.trailers)) or b""
        # The record is complete before the client can act on the answer.
        record.status, record.ended = code, time.monotonic()
        writer.write(sent)
        await writer.drain()

    async def _forward_late(self, message: Message, record: Record, delay: float) -> None:
        try:
            await asyncio.sleep(delay)
            await self._forward(message, record)
        finally:
            self._done()

    async def _forward(self, message: Message, record: Record) -> Message | None:
        """The server's answer; None if it gives none."""
        try:
            link = self._reused() or await self._connect()
            try:
                response = await exchange(message, link)
            except BaseException:
                link.writer.transport.abort()
                raise
        except (OSError, h11.RemoteProtocolError):
            return None
        assert isinstance(response.head, h11.Response)
        record.upstream_status = response.head.status_code
        if link.http.our_state is link.http.their_state is h11.DONE:
            link.http.start_next_cycle()
            link.idle_since = time.monotonic()
            self._idle.append(link)
        else:
            link.writer.close()
        return response

    def _reused(self) -> Link | None:
        while self._idle:
            link = self._idle.pop()
            fresh = time.monotonic() - link.idle_since < IDLE_LIMIT
            if fresh and not link.reader.at_eof() and not link.writer.is_closing():
                return link
            link.writer.close()
        return None

    async def _connect(self) -> Link:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        return Link(reader, writer, h11.Connection(h11.CLIENT))
