"""Servers come and go with the tests: installed or missed aloud, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from tests.servers import install, programs
from tests.servers.programs import GUARD, Missing, Program, Servers

ROOT = Path(__file__).parents[2]
WHEEL = "moto @ file:///no/such/moto-1-py3-none-any.whl"
LIMIT = 20  # seconds that nothing here needs


def gone(pid: int) -> bool:
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of servers."""
    monkeypatch.setattr(install, "SERVERS", tmp_path / ".servers")
    return tmp_path / ".servers"


def pretend_installed(name: str, folder: Path) -> None:
    executable = install.program(name)
    executable.parent.mkdir(parents=True)
    executable.write_text("")
    (folder / name / ".installed").write_text("")


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_server_ends_with_a_parent_that_was_killed(stubborn: bool) -> None:
    server = f"""
        import os, signal, subprocess, sys, time
        if {stubborn}:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(os.getpid(), child.pid, flush=True)
        time.sleep(600)
    """
    parent = f"""
        import subprocess, sys, time
        command = [sys.executable, "-c", {textwrap.dedent(server)!r}]
        guard = subprocess.Popen([sys.executable, {str(GUARD)!r}, *command], stdin=subprocess.PIPE)
        time.sleep(600)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(parent)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 2
        assert all(psutil.pid_exists(pid) for pid in pids)
        os.kill(process.pid, signal.SIGKILL)
        for pid in pids:
            assert gone(pid)


def test_a_server_that_ends_at_once_is_an_error_with_what_it_said(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = elsewhere / "started"
    script = f"open({str(started)!r}, 'a').write('.'); raise SystemExit('no such luck')"
    broken = Program(lambda exe, port, folder: [sys.executable, "-c", script], True)
    monkeypatch.setitem(programs.PROGRAMS, "moto", broken)
    pretend_installed("moto", elsewhere)
    servers = Servers()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no such luck"):
            servers.get("moto")
    assert started.read_text() == "." * programs.ATTEMPTS  # the second time it is not tried
    assert servers.running == []
    servers.stop()


def test_a_server_that_never_answers_is_stopped(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = elsewhere / "pid"
    script = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    mute = Program(lambda exe, port, folder: [sys.executable, "-c", script], True)
    monkeypatch.setitem(programs.PROGRAMS, "moto", mute)
    monkeypatch.setattr(programs, "START_LIMIT", 1.0)

    def never_answers(endpoint: str) -> bool:
        deadline = time.monotonic() + LIMIT
        while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return False

    monkeypatch.setattr(programs, "answers", never_answers)
    pretend_installed("moto", elsewhere)
    with pytest.raises(RuntimeError, match="did not start"):
        Servers().get("moto")
    assert gone(int(pid.read_text()))


def test_what_was_not_installed_is_missing(elsewhere: Path) -> None:
    servers = Servers()
    with pytest.raises(Missing, match=r"dev\.py servers"):
        servers.get("moto")
    assert list(servers.missing) == ["moto"]


def test_without_node_the_reason_is_kept(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(elsewhere))
    reason = install.install("s3rver")
    assert reason is not None
    assert "node and npm" in reason
    assert install.missing("s3rver") == reason


def test_a_failed_installation_says_why(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(install.PYTHON_PROGRAMS, "moto", WHEEL)
    reason = install.install("moto")
    assert reason is not None
    assert "/no/such/moto" in reason
    assert install.missing("moto") == reason


@pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("true", "1 error")])
def test_a_missing_server_is_a_skip_here_and_a_failure_in_ci(
    tmp_path: Path, ci: str, outcome: str
) -> None:
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent("""
            import pathlib, pytest
            from tests.servers import install

            install.SERVERS = pathlib.Path("nowhere")

            @pytest.mark.parametrize("s3_server", ["moto"], indirect=True)
            def test_it(s3_server):
                raise AssertionError("it ran")
        """)
    )
    command = [sys.executable, "-m", "pytest", "-p", "tests.servers.plugin", "-c", os.devnull]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), "-p", "no:cacheprovider", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert outcome in done.stdout, done.stdout
    assert "S3 servers: ran none; missing moto (not installed: run" in done.stdout
