"""The proxy passes on what it gets, tells what passed, and does what its faults say."""

from __future__ import annotations

import http.client
import http.server
import itertools
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator

import anyio
import httpx
import pytest

from tests.servers import proxy as p
from tests.servers.client import make_bucket, send
from tests.servers.programs import S3Server
from tests.servers.proxy import Proxy, Record

LIMIT = 20  # seconds that no test needs


class Upstream(http.server.ThreadingHTTPServer):
    """A server that keeps what it got, and answers as the path says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[str, str, dict[str, str], bytes]] = []
        self.connections: set[object] = set()
        self.gate = threading.Barrier(3)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def answer(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.got.append((self.command, self.path, dict(self.headers), body))
        self.server.connections.add(self.connection)
        if self.path == "/gate":
            self.server.gate.wait(LIMIT)
        if self.path == "/silence":
            self.close_connection = True
            return
        self.send_response({"/204": 204, "/304": 304}.get(self.path, 200))
        self.send_header("X-Kept", "yes")
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
            return
        text = b"" if self.path in ("/204", "/304") else b"0123456789"
        if self.path != "/204":
            self.send_header("Content-Length", "10")
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else text)

    do_GET = do_PUT = do_HEAD = do_DELETE = answer  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(upstream: Upstream) -> Iterator[Proxy]:
    with Proxy(upstream.url) as running:
        yield running


@pytest.fixture
def client(proxy: Proxy) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(proxy.url).netloc, timeout=LIMIT)
    yield connection
    connection.close()


def ask(
    client: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | Iterator[bytes] | None = None,
    **headers: str,
) -> tuple[int, bytes]:
    client.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
    response = client.getresponse()
    return response.status, response.read()


def test_a_request_passes_unchanged(proxy: Proxy, upstream: Upstream) -> None:
    headers = {"Authorization": "AWS4-HMAC-SHA256 x", "X-Amz-Meta-A": "b", "If-Match": '"e"'}
    request = urllib.request.Request(f"{proxy.url}/a%20b?x=1&y=%2F", b"body", headers, method="PUT")
    with urllib.request.urlopen(request, timeout=LIMIT) as response:
        assert (response.status, response.read()) == (200, b"0123456789")
        assert response.headers["X-Kept"] == "yes"
    ((method, path, got, body),) = upstream.got
    assert (method, path, body) == ("PUT", "/a%20b?x=1&y=%2F", b"body")
    assert got["Host"] == urllib.parse.urlsplit(proxy.url).netloc
    assert got["Authorization"] == "AWS4-HMAC-SHA256 x"
    (record,) = proxy.requests
    assert (record.method, record.path, record.query) == ("PUT", "/a b", "x=1&y=%2F")
    assert record.headers["if-match"] == '"e"'
    assert "authorization" not in record.headers
    assert (record.bytes_in, record.bytes_out) == (4, 10)
    assert (record.status, record.upstream_status, record.fault) == (200, 200, None)
    assert record.ended is not None
    assert record.ended > record.started


def test_connections_are_kept_on_both_sides(
    client: http.client.HTTPConnection, upstream: Upstream
) -> None:
    assert ask(client, "GET", "/") == (200, b"0123456789")
    socket_of_first = client.sock
    assert ask(client, "PUT", "/", b"x" * 300_000) == (200, b"0123456789")
    assert ask(client, "HEAD", "/") == (200, b"")
    assert ask(client, "GET", "/204") == (204, b"")
    assert ask(client, "GET", "/304") == (304, b"")
    assert ask(client, "GET", "/chunked") == (200, b"abcde")
    assert ask(client, "PUT", "/", iter([b"chun", b"ked"])) == (200, b"0123456789")
    assert client.sock is socket_of_first
    assert len(upstream.connections) == 1
    assert [len(body) for *_, body in upstream.got] == [0, 300_000, 0, 0, 0, 0, 7]
    assert upstream.got[-1][2]["Transfer-Encoding"] == "chunked"


def test_a_client_that_waits_to_be_told_to_go_on_is_told(proxy: Proxy, upstream: Upstream) -> None:
    address = urllib.parse.urlsplit(proxy.url)
    with socket.create_connection((address.hostname, address.port), LIMIT) as raw:
        raw.sendall(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n")
        raw.sendall(b"Expect: 100-continue\r\n\r\n")
        assert raw.recv(1000).startswith(b"HTTP/1.1 100 ")
        raw.sendall(b"abc")
        assert raw.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert upstream.got[0][3] == b"abc"


def test_a_body_that_never_ends_is_not_forwarded(proxy: Proxy, upstream: Upstream) -> None:
    address = urllib.parse.urlsplit(proxy.url)
    with socket.create_connection((address.hostname, address.port), LIMIT) as raw:
        raw.sendall(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nab")
        raw.shutdown(socket.SHUT_WR)
        assert raw.recv(1000) == b""
    (record,) = proxy.requests
    assert (record.status, record.upstream_status) == (None, None)
    assert upstream.got == []


def test_a_server_that_gives_no_answer_is_a_closed_connection(
    client: http.client.HTTPConnection, proxy: Proxy, upstream: Upstream
) -> None:
    with pytest.raises(http.client.RemoteDisconnected):
        ask(client, "PUT", "/silence")
    assert len(upstream.got) == 1  # and is not asked twice


def test_requests_are_counted_and_forgotten(
    client: http.client.HTTPConnection, proxy: Proxy
) -> None:
    for method, path in [("GET", "/a"), ("GET", "/b"), ("PUT", "/a")]:
        ask(client, method, path)
    assert proxy.count() == 3
    assert proxy.count("GET") == 2
    assert proxy.count(path_contains="a") == 2
    assert proxy.count("GET", "a") == 1
    assert proxy.waves() == 3
    assert proxy.waves("PUT") == 1
    proxy.clear()
    assert (proxy.requests, proxy.waves()) == ([], 0)


@pytest.mark.anyio
async def test_latency_is_added_to_concurrent_requests_at_once(
    proxy: Proxy, anyio_backend: str
) -> None:
    proxy.latency = 0.05
    async with httpx.AsyncClient(timeout=LIMIT, trust_env=False) as client:
        # The gate opens when three are there: had they to wait for each other, it never would.
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(client.get, f"{proxy.url}/gate")
        assert proxy.waves() == 1
        await client.get(f"{proxy.url}/")
    assert proxy.waves() == 2
    for record in proxy.requests:
        assert record.status == 200
        assert record.ended is not None
        assert record.ended - record.started >= proxy.latency


def interval(started: float, ended: float | None) -> Record:
    return Record("GET", "/", "", {}, started, ended)


def test_waves_is_the_longest_chain_of_all() -> None:
    def chains(records: list[Record]) -> Iterator[int]:
        for size in range(len(records) + 1):
            for chain in itertools.permutations(records, size):
                if all(
                    a.ended is not None and a.ended <= b.started
                    for a, b in itertools.pairwise(chain)
                ):
                    yield size

    spans = [(0, 1), (0, 4), (1, 2), (1, 3), (2, 5), (3, 4), (4, None)]
    for size in range(5):
        for chosen in itertools.combinations(spans, size):
            records = [interval(*span) for span in chosen]
            assert p.waves(records) == max(chains(records))
    assert p.waves([interval(*span) for span in spans]) == 4


def test_a_dropped_request_does_not_reach_the_server(
    client: http.client.HTTPConnection, proxy: Proxy, upstream: Upstream
) -> None:
    proxy.plan = p.in_turn(p.DROP_REQUEST)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        ask(client, "PUT", "/", b"x")
    assert upstream.got == []
    assert ask(client, "PUT", "/", b"x")[0] == 200
    assert [r.fault for r in proxy.requests] == [p.DROP_REQUEST, None]


def test_a_dropped_response_is_of_a_request_that_was_served(
    client: http.client.HTTPConnection, proxy: Proxy, upstream: Upstream
) -> None:
    proxy.plan = p.in_turn(p.DROP_RESPONSE)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        ask(client, "PUT", "/", b"x")
    assert len(upstream.got) == 1
    (record,) = proxy.requests
    assert (record.status, record.upstream_status) == (None, 200)


def test_a_late_request_is_served_after_the_client_has_given_up(
    client: http.client.HTTPConnection, proxy: Proxy, upstream: Upstream
) -> None:
    proxy.plan = p.in_turn(p.late(0.2))
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        ask(client, "PUT", "/first", b"x")
    ask(client, "PUT", "/second", b"y")
    proxy.settle()
    first, second = proxy.requests
    assert (first.status, first.upstream_status) == (None, 200)
    assert second.status == 200
    assert sorted(path for _, path, *_ in upstream.got) == ["/first", "/second"]


def test_settling_waits_for_what_is_late(
    client: http.client.HTTPConnection, proxy: Proxy, upstream: Upstream
) -> None:
    proxy.plan = lambda record: p.late(600)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        ask(client, "PUT", "/", b"x")
    with pytest.raises(TimeoutError):
        proxy.settle(0.05)
    assert upstream.got == []


def test_a_status_is_answered_in_the_servers_stead(
    client: http.client.HTTPConnection, proxy: Proxy, upstream: Upstream
) -> None:
    proxy.plan = p.in_turn(p.status(503), p.status(409))
    code, body = ask(client, "PUT", "/", b"x")
    assert code == 503
    assert b"<Code>SlowDown</Code>" in body
    assert ask(client, "HEAD", "/") == (409, b"")
    assert upstream.got == []
    assert ask(client, "GET", "/")[0] == 200


def test_a_truncated_response_ends_in_its_middle(
    client: http.client.HTTPConnection, proxy: Proxy
) -> None:
    proxy.plan = p.in_turn(p.TRUNCATE, p.TRUNCATE, p.TRUNCATE)
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(client, "GET", "/")
    assert caught.value.partial == b"01234"
    client.close()
    with pytest.raises(http.client.IncompleteRead):
        ask(client, "GET", "/chunked")
    client.close()
    with pytest.raises(http.client.RemoteDisconnected):
        ask(client, "GET", "/204")
    assert [r.bytes_out for r in proxy.requests] == [5, 2, 0]


def test_a_plan_in_turn_counts_only_what_matches() -> None:
    plan = p.in_turn(None, p.DROP_REQUEST, method="PUT", path_contains="tip")
    asked = [("PUT", "/tip"), ("GET", "/tip"), ("PUT", "/x"), ("PUT", "/tip"), ("PUT", "/tip")]
    met = [plan(Record(method, path, "", {}, 0.0)) for method, path in asked]
    assert met == [None, None, None, p.DROP_REQUEST, None]


def test_an_error_in_a_plan_is_raised_at_the_end(upstream: Upstream) -> None:
    def plan(record: Record) -> None:
        raise LookupError("in the plan")

    with pytest.raises(LookupError, match="in the plan"), Proxy(upstream.url) as proxy:
        proxy.plan = plan
        with pytest.raises(httpx.TransportError):
            httpx.get(proxy.url, trust_env=False, timeout=LIMIT)


def test_a_client_may_still_wait_when_the_proxy_ends(upstream: Upstream) -> None:
    failed: list[BaseException] = []

    def wait(url: str) -> None:
        try:
            httpx.get(url, trust_env=False, timeout=LIMIT)
        except httpx.TransportError as error:
            failed.append(error)

    with Proxy(upstream.url) as proxy:
        seen = threading.Event()
        proxy.latency, proxy.plan = 600, lambda record: seen.set()
        client = threading.Thread(target=wait, args=(proxy.url,))
        client.start()
        assert seen.wait(LIMIT)
    client.join()
    assert len(failed) == 1


def test_every_server_takes_what_comes_through_a_proxy(s3_server: S3Server) -> None:
    with Proxy(s3_server.endpoint) as proxy:
        path = f"/{make_bucket(s3_server)}/some key+ü"
        body = bytes(range(256)) * 500
        put = send(s3_server, "PUT", path, body, endpoint=proxy.url)
        assert put.status == 200
        got = send(s3_server, "GET", path, endpoint=proxy.url)
        assert (got.status, got.body) == (200, body)
        assert (
            send(s3_server, "HEAD", path, endpoint=proxy.url).headers["etag"] == got.headers["etag"]
        )
        assert send(s3_server, "DELETE", path, endpoint=proxy.url).status == 204
        assert [r.method for r in proxy.requests] == ["PUT", "GET", "HEAD", "DELETE"]
        assert {r.path for r in proxy.requests} == {path}


def test_moto_verifies_no_signature_but_wants_one_to_read(
    servers: Callable[[str], S3Server],
) -> None:
    with Proxy(servers("moto").endpoint) as proxy:

        def ask(method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
            request = urllib.request.Request(proxy.url + path, body, headers, method=method)
            with urllib.request.urlopen(request, timeout=LIMIT) as response:
                return bytes(response.read())

        ask("PUT", "/unsigned-bucket")
        # urllib would call it a form, and moto would read it as one.
        ask("PUT", "/unsigned-bucket/key", b"value", **{"Content-Type": "text/plain"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask("GET", "/unsigned-bucket/key")
        refused.value.close()
        assert refused.value.code == 403
        unproved = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request"
        assert ask("GET", "/unsigned-bucket/key", Authorization=unproved) == b"value"
