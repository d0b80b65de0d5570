"""A process that imports once what programs of the tests need, and forks for each of them.

Importing the library or pytest takes a second; a fork takes none. A program that is run in a fork
has the modules, arguments, folder and exit code of its own that it would have as a process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

__all__ = ["Forks"]


class Forks:
    """The side of the tests. ``folders`` are where modules are looked for first."""

    def __init__(
        self,
        modules: Sequence[str],
        *,
        python: str = sys.executable,
        folders: Sequence[Path] = (),
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            # Without the folder of this file, whose names are no modules.
            [python, "-P", __file__, json.dumps([*map(str, folders)]), *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env=environment,
        )

    def run(
        self, program: str, *arguments: str, folders: Sequence[Path] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Call ``program``, as ``module:function``, in a fork with ``arguments`` in ``sys.argv``.

        It is called without arguments and returns the exit code; with ``-c`` the first of the
        arguments is run as code, with warnings as errors. All output is in ``stdout``.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = json.dumps([program, arguments, [*map(str, folders)]])
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"the process that forks ended before {program}"
        code, said = json.loads(answer)
        return subprocess.CompletedProcess([program, *arguments], code, said)

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def _call(program: str, arguments: Sequence[str], folders: Sequence[str]) -> int:
    sys.path[:0] = folders
    if program == "-c":
        warnings.simplefilter("error")
        code, *arguments = arguments
        sys.argv = ["-c", *arguments]
        exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
        return 0
    module, _, function = program.partition(":")
    sys.argv = [module, *arguments]
    return int(getattr(import_module(module), function)() or 0)


def _serve() -> None:
    for line in sys.stdin:
        program, arguments, folders = json.loads(line)
        with tempfile.TemporaryFile("w+") as said:
            pid = os.fork()
            if not pid:
                code = 70
                try:
                    with open(os.devnull) as nothing:
                        os.dup2(nothing.fileno(), 0)
                    os.dup2(said.fileno(), 1)
                    os.dup2(said.fileno(), 2)
                    code = _call(program, arguments, folders)
                except SystemExit as end:
                    code = end.code if isinstance(end.code, int) else 1
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            _, status = os.waitpid(pid, 0)
            said.seek(0)
            print(json.dumps([os.waitstatus_to_exitcode(status), said.read()]), flush=True)


if __name__ == "__main__":
    sys.path[:0] = json.loads(sys.argv[1])
    for name in sys.argv[2:]:
        import_module(name)
    _serve()
