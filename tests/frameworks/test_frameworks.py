"""Other projects' plugins and frameworks, each run for real, with warnings as errors."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


def test_plugins_notebooks_and_web_frameworks_open_and_close_as_they_like(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("cases.py"), tmp_path / "test_cases.py")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nfilterwarnings =\n    error\n    ignore:.*:DeprecationWarning\n"
        "    ignore:.*:PendingDeprecationWarning\n"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=60"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "11 passed" in ran.stdout, ran.stdout
