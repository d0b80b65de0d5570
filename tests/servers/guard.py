"""Run a command until the process that asked for it is gone.

Run as a script: ``python guard.py COMMAND …`` with a pipe as standard input. The command gets a
process group of its own, which is killed when the pipe closes: also when the other end was killed
and could clean up nothing itself. Ends with the command's status if that ends first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

GRACE = 1.0  # seconds between asking the command to end and killing it


def main() -> int:
    """Start the command, wait for it or for the end of standard input."""
    # Interrupting the tests interrupts the terminal's group; this one ends by its pipe.
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    watcher = threading.Thread(target=_end_with_pipe, args=(child,), daemon=True)
    watcher.start()
    try:
        return child.wait()
    finally:
        _signal(child, signal.SIGKILL)  # what the command has left behind


def _end_with_pipe(child: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1024):
        pass
    _signal(child, signal.SIGTERM)
    try:
        child.wait(GRACE)
    except subprocess.TimeoutExpired:
        _signal(child, signal.SIGKILL)


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    # macOS forbids signals to a group of which only a zombie is left.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


if __name__ == "__main__":
    sys.exit(main())
