"""What the tests of the project and of its backends share."""

from __future__ import annotations

pytest_plugins = ["tests.servers.plugin"]
