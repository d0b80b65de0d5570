"""What the tests of the project and of its backends share."""

from __future__ import annotations

from hypothesis import settings

# A busy machine is no fault: how long an example takes is for the benchmarks.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

pytest_plugins = ["tests.servers.plugin"]
