"""HTTP/1.1 messages held whole, read and sent with h11: what the proxy is made of."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

import h11

CHUNK = 1 << 16
HOP_BY_HOP = (b"connection", b"keep-alive", b"proxy-connection")
ERROR_CODES = {
    403: "AccessDenied",
    404: "NoSuchKey",
    409: "ConditionalRequestConflict",
    412: "PreconditionFailed",
    429: "TooManyRequests",
    500: "InternalError",
    503: "SlowDown",
}


@dataclass
class Message:
    """A request or a response with its whole body."""

    head: h11.Request | h11.Response
    body: bytearray = field(default_factory=bytearray)
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Its headers as they were written, without those of one connection."""
        raw = self.head.headers.raw_items()
        return [(name, value) for name, value in raw if name.lower() not in HOP_BY_HOP]


@dataclass
class Link:
    """A connection to the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    http: h11.Connection
    idle_since: float = 0.0


async def exchange(message: Message, link: Link) -> Message:
    """Send a request and read its answer; OSError, RemoteProtocolError if there is none."""
    request = message.head
    assert isinstance(request, h11.Request)
    head = h11.Request(method=request.method, target=request.target, headers=message.headers())
    sent = link.http.send(head) or b""
    if message.body:
        sent += link.http.send(h11.Data(data=bytes(message.body))) or b""
    sent += link.http.send(h11.EndOfMessage(headers=message.trailers)) or b""
    # A server may answer, and close, before it has read the whole body.
    with contextlib.suppress(ConnectionError):
        link.writer.write(sent)
        await link.writer.drain()
    event = await next_event(link.http, link.reader, link.writer)
    while isinstance(event, h11.InformationalResponse):
        event = await next_event(link.http, link.reader, link.writer)
    if not isinstance(event, h11.Response):
        raise h11.RemoteProtocolError("the server closed the connection without an answer")
    response = Message(event)
    await read_body(response, link.http, link.reader, link.writer)
    return response


async def read_body(
    message: Message,
    http: h11.Connection,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """Read the rest of the message whose head has been read."""
    while not isinstance(event := await next_event(http, reader, writer), h11.EndOfMessage):
        assert isinstance(event, h11.Data), event
        message.body += event.data
    message.trailers = list(event.headers.raw_items())


async def next_event(
    http: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> h11.Event:
    """The next part of a message; a client that waits to be told to go on is told."""
    while (event := http.next_event()) is h11.NEED_DATA:
        if http.our_role is h11.SERVER and http.they_are_waiting_for_100_continue:
            go_on = http.send(h11.InformationalResponse(status_code=100, headers=[]))
            writer.write(go_on or b"")
        http.receive_data(await reader.read(CHUNK))
    assert isinstance(event, h11.Event), "a message was left unanswered"
    return event


def refusal(code: int) -> Message:
    """An answer such as S3's with this status."""
    text = ERROR_CODES.get(code, f"Status{code}")
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{text}</Code><Message>{text}</Message></Error>"
    ).encode()
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    head = h11.Response(status_code=code, headers=headers, reason=text)
    return Message(head, bytearray(body))
