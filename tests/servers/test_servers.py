"""What each server does, as the tests that use it take for granted."""

from __future__ import annotations

import dataclasses

from tests.servers.client import make_bucket, send
from tests.servers.programs import S3Server


def test_an_object_is_put_read_listed_and_deleted(s3_server: S3Server) -> None:
    bucket = make_bucket(s3_server)
    assert send(s3_server, "PUT", f"/{bucket}/a/b", b"0123456789").status == 200
    assert send(s3_server, "GET", f"/{bucket}/a/b").body == b"0123456789"
    part = send(s3_server, "GET", f"/{bucket}/a/b", headers={"Range": "bytes=2-4"})
    # rclone sends the part and calls it 200.
    assert part.status == (200 if s3_server.name == "rclone" else 206)
    assert (part.body, part.headers["content-range"]) == (b"234", "bytes 2-4/10")
    listing = send(s3_server, "GET", f"/{bucket}", query={"list-type": "2", "prefix": "a/"})
    assert b"<Key>a/b</Key>" in listing.body
    assert send(s3_server, "DELETE", f"/{bucket}/a/b").status == 204
    assert send(s3_server, "GET", f"/{bucket}/a/b").status == 404


def test_conditional_writes_are_honoured_by_those_said_to(s3_server: S3Server) -> None:
    bucket = make_bucket(s3_server)
    path = f"/{bucket}/tip"
    first = send(s3_server, "PUT", path, b"one", headers={"If-None-Match": "*"})
    assert first.status == 200
    second = send(s3_server, "PUT", path, b"two", headers={"If-None-Match": "*"})
    third = send(s3_server, "PUT", path, b"three", headers={"If-Match": '"' + "0" * 32 + '"'})
    body = send(s3_server, "GET", path).body
    if s3_server.honours_conditions:
        assert (second.status, third.status, body) == (412, 412, b"one")
        etag = first.headers["etag"]
        assert send(s3_server, "PUT", path, b"four", headers={"If-Match": etag}).status == 200
    else:
        assert (second.status, third.status, body) == (200, 200, b"three")


def test_only_rclone_verifies_signatures(s3_server: S3Server) -> None:
    wrong = dataclasses.replace(s3_server, secret_key="wrong")
    assert send(wrong, "GET", "/").status == (403 if s3_server.name == "rclone" else 200)
    assert send(s3_server, "GET", "/").status == 200
