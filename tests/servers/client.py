"""A plain S3 client for tests: one signed request, sent and answered, on one connection.

It blocks, retries nothing and knows no operations: tests look behind a backend's back with it, and
tell what a server does from what a backend makes of it.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import time
import urllib.parse
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from tests.servers.programs import S3Server


@dataclass(frozen=True)
class Answer:
    """What a server answered; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def send(
    server: S3Server,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    query: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    endpoint: str | None = None,
) -> Answer:
    """Send one request, signed for the host it goes to: `endpoint` may be a proxy's."""
    host = urllib.parse.urlsplit(endpoint or server.endpoint).netloc
    path = urllib.parse.quote(path)
    text = "&".join(f"{_quote(k)}={_quote(v)}" for k, v in sorted((query or {}).items()))
    sent = {"host": host, **{k.lower(): v for k, v in (headers or {}).items()}}
    sent |= signature(server, method, path, text, sent, body)
    connection = http.client.HTTPConnection(host, timeout=30)
    try:
        connection.request(method, f"{path}?{text}" if text else path, body or None, sent)
        response = connection.getresponse()
        names = {k.lower(): v for k, v in response.getheaders()}
        return Answer(response.status, names, response.read())
    finally:
        connection.close()


def make_bucket(server: S3Server) -> str:
    """Make a bucket of a new name."""
    name = f"bucket-{uuid.uuid4().hex[:16]}"
    answer = send(server, "PUT", f"/{name}")
    assert answer.status == 200, answer
    return name


def signature(
    server: S3Server, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
) -> dict[str, str]:
    """The headers of AWS Signature Version 4; path and query as they are sent."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    digest = hashlib.sha256(body).hexdigest()
    added = {"x-amz-date": moment, "x-amz-content-sha256": digest}
    signed = {**headers, **added}
    names = ";".join(sorted(signed))
    lines = [method, path, query, *(f"{k}:{signed[k].strip()}" for k in sorted(signed))]
    request = "\n".join([*lines, "", names, digest])
    scope = f"{moment[:8]}/{server.region}/s3/aws4_request"
    hashed = hashlib.sha256(request.encode()).hexdigest()
    key = b"AWS4" + server.secret_key.encode()
    for part in (*scope.split("/"), f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashed}"):
        key = hmac.digest(key, part.encode(), "sha256")
    added["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={server.access_key}/{scope}, "
        f"SignedHeaders={names}, Signature={key.hex()}"
    )
    return added


def _quote(text: str) -> str:
    return urllib.parse.quote(text, safe="")
