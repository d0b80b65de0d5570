"""The pytest plugin that lends the S3 servers to tests; loaded by the conftest of the root.

``servers`` (a session's) gives the server of a name: ``servers("moto")``. ``s3_server`` runs a
test on every server, or on those named by
``@pytest.mark.parametrize("s3_server", ["moto"], indirect=True)``. A program that is not installed
skips the test, and fails it where CI=true. Starting a server blocks for seconds: ask for it in a
synchronous fixture.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.servers.programs import PROGRAMS, Missing, S3Server, Servers

_SERVERS = pytest.StashKey[Servers]()


@pytest.fixture(scope="session")
def servers(pytestconfig: pytest.Config) -> Iterator[Callable[[str], S3Server]]:
    """Give the server of a name, started once a session."""
    session = pytestconfig.stash[_SERVERS] = Servers()

    def get(name: str) -> S3Server:
        try:
            return session.get(name)
        except Missing as missing:
            if os.environ.get("CI") == "true":
                pytest.fail(str(missing))
            pytest.skip(str(missing))

    try:
        yield get
    finally:
        session.stop()


@pytest.fixture(scope="session", params=sorted(PROGRAMS))
def s3_server(request: pytest.FixtureRequest, servers: Callable[[str], S3Server]) -> S3Server:
    """Each server in turn."""
    return servers(request.param)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say which servers ran, and which were missed and why."""
    session = config.stash.get(_SERVERS, None)
    if session is None:
        return
    parts = ["ran " + (", ".join(sorted(session.running)) or "none")]
    parts += [f"{name} did not start" for name in sorted(session.failed)]
    parts += [f"missing {name} ({reason})" for name, reason in sorted(session.missing.items())]
    terminalreporter.write_line("S3 servers: " + "; ".join(parts))
