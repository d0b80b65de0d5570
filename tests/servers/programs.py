"""Start and stop the S3 servers of the tests: `Servers` hands out `S3Server` by name.

Each server runs on loopback on a free port, with a folder and an environment of its own, and ends
with the process that started it, however that ends (``guard.py``). Calls here block; ask for a
server in a synchronous fixture or test.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.servers import install

START_LIMIT = 30.0  # seconds until a server must answer
ATTEMPTS = 3
STOP_LIMIT = 10.0  # seconds until it must be gone; its guard kills it well before
GUARD = Path(__file__).with_name("guard.py")
# What a server may know of the environment of the tests: no credentials, no proxies.
INHERITED = ("PATH", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class S3Server:
    """A running S3 server: where it is, how to sign for it, and what it can be trusted with.

    Buckets are addressed by path. `honours_conditions` says that it carries out If-Match and
    If-None-Match on PUT; one that does not is a negative control.
    """

    name: str
    endpoint: str  # http://host:port, without a slash at the end
    access_key: str
    secret_key: str
    region: str
    honours_conditions: bool


@dataclass(frozen=True)
class Program:
    """How to run one server: its command for a port and a folder, and the keys it accepts."""

    command: Callable[[str, int, Path], list[str]]
    honours_conditions: bool
    access_key: str = "test-access-key"
    secret_key: str = "test-secret-key"
    environment: Callable[[int, Path], dict[str, str]] = lambda port, folder: {}


PROGRAMS = {
    # Its threads compare and write without a lock, so that of conditional writes that come at the
    # same moment two may be accepted: for one writer, and for tests of a single request.
    "moto": Program(
        lambda exe, port, folder: [exe, "-H", "127.0.0.1", "-p", str(port)],
        honours_conditions=True,
    ),
    # Left to itself it listens on every address, and removes containers of its kind from Docker.
    "ministack": Program(
        lambda exe, port, folder: [exe],
        honours_conditions=True,
        environment=lambda port, folder: {
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "SERVICES": "s3",
            "DOCKER_HOST": f"unix://{folder}/no-docker",
            "TMPDIR": str(folder),
        },
    ),
    "s3rver": Program(
        lambda exe, port, folder: [
            *(exe, "--address", "127.0.0.1", "--port", str(port), "--silent"),
            *("--directory", str(folder / "data"), "--no-vhost-buckets"),
        ],
        honours_conditions=False,
        access_key="S3RVER",
        secret_key="S3RVER",
    ),
    # The one that verifies signatures.
    "rclone": Program(
        lambda exe, port, folder: [
            *(exe, "serve", "s3", "--addr", f"127.0.0.1:{port}"),
            *("--auth-key", "test-access-key,test-secret-key", str(folder / "data")),
        ],
        honours_conditions=False,
    ),
}


class Missing(Exception):
    """A program is not installed; the message says why."""


class Servers:
    """The servers of one session, each started when it is first asked for. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, _Process] = {}
        self.failed: dict[str, str] = {}
        self.missing: dict[str, str] = {}

    @property
    def running(self) -> list[str]:
        """The names of those that were started."""
        return list(self._running)

    def get(self, name: str) -> S3Server:
        """The server `name`, started if need be. Raises Missing; RuntimeError if it won't run."""
        with self._lock:
            if name in self._running:
                return self._running[name].server
            if name in self.failed:
                raise RuntimeError(self.failed[name])
            reason = install.missing(name)
            if reason is not None:
                self.missing[name] = reason
                raise Missing(f"the server {name} is missing: {reason}")
            try:
                self._running[name] = _Process(name)
            except RuntimeError as error:
                self.failed[name] = str(error)
                raise
            return self._running[name].server

    def stop(self) -> None:
        """End all of them and remove their folders; `running` still names them."""
        with self._lock:
            for process in self._running.values():
                process.stop()


class _Process:
    """One server that answers."""

    def __init__(self, name: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix=f"s3-{name}-"))
        (self._folder / "data").mkdir()
        deadline = time.monotonic() + START_LIMIT
        try:
            # Another process may take the port first: the server then ends, and is tried again.
            for _ in range(ATTEMPTS):
                if time.monotonic() < deadline and self._start(name, free_port(), deadline):
                    break
            else:
                log = (self._folder / "log").read_text(errors="replace")
                raise RuntimeError(f"the server {name} did not start; it said:\n{log[-4000:]}")
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def _start(self, name: str, port: int, deadline: float) -> bool:
        program = PROGRAMS[name]
        command = program.command(str(install.program(name)), port, self._folder)
        environment = {key: os.environ[key] for key in INHERITED if key in os.environ}
        environment["HOME"] = str(self._folder)
        environment |= program.environment(port, self._folder)
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(GUARD), *command],
                cwd=self._folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.server = S3Server(
            name,
            f"http://127.0.0.1:{port}",
            program.access_key,
            program.secret_key,
            "us-east-1",
            program.honours_conditions,
        )
        try:
            while time.monotonic() < deadline:
                if self._process.poll() is not None:
                    break
                if answers(self.server.endpoint) and self._process.poll() is None:
                    return True
                time.sleep(0.05)
        except BaseException:
            self._end()
            raise
        self._end()
        return False

    def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        self._end()
        shutil.rmtree(self._folder, ignore_errors=True)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(endpoint: str) -> bool:
    """Whether an HTTP server answers there, be it with a refusal."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(endpoint + "/", timeout=2).close()
    except urllib.error.HTTPError as refusal:
        refusal.close()
        return refusal.code < 500
    except OSError:
        return False
    return True
