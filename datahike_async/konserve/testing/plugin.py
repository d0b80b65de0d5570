"""A pytest plugin that prints the support matrix at the end of a run of the suite.

Enable it with ``-p datahike_async.konserve.testing.plugin``, or in the topmost ``conftest.py``::

    pytest_plugins = ["datahike_async.konserve.testing.plugin"]

The option ``--support-matrix=FILE`` also writes it to a file, as Markdown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from datahike_async.konserve.testing.matrix import Matrix, support_matrix

__all__ = ["pytest_addoption", "pytest_configure"]

_NAME: Final = "datahike-async-support-matrix"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--support-matrix``."""
    parser.getgroup("datahike-async").addoption(
        "--support-matrix",
        metavar="FILE",
        help="write to FILE which promises the stores under test have kept",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begin to gather outcomes."""
    config.pluginmanager.register(_Collector(config.getoption("--support-matrix")), _NAME)


class _Collector:
    """Counts a test once all of its phases have been reported: passed if none has failed."""

    def __init__(self, target: str | None) -> None:
        self._target = target
        self._matrix = Matrix()
        self._failed: set[str] = set()
        self._ran: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in the report of one phase of a test."""
        if report.failed:
            self._failed.add(report.nodeid)
        if report.when == "call" and not report.skipped:
            self._ran.add(report.nodeid)
        if report.when != "teardown":
            return
        failed = report.nodeid in self._failed
        if failed or report.nodeid in self._ran:
            self._matrix.add(report.user_properties, not failed)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print or write the matrix, if any test of the suite has run."""
        rows = self._matrix.rows()
        if not rows:
            return
        text = support_matrix(rows)
        terminalreporter.write_sep("=", "support matrix")
        terminalreporter.write(text)
        if self._target is not None:
            Path(self._target).write_text(text, encoding="utf-8")
