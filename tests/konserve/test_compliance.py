"""The built-in backends pass the public suite, and broken ones fail it."""

import subprocess
import sys
import textwrap
import uuid

import pytest

from datahike_async.konserve.testing import StoreCompliance
from datahike_async.konserve.testing.negative import BROKEN


class TestMemory(StoreCompliance):
    @pytest.fixture
    def store_config(self):
        return {"backend": "memory", "id": str(uuid.uuid4())}


class TestFile(StoreCompliance):
    @pytest.fixture
    def store_config(self, tmp_path):
        return {"backend": "file", "id": str(uuid.uuid4()), "path": str(tmp_path / "store")}


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_the_suite_turns_red(kind, tmp_path):
    module = tmp_path / "test_broken.py"
    module.write_text(
        textwrap.dedent(f"""
        import uuid
        import pytest
        from datahike_async.konserve import register_backend
        from datahike_async.konserve.testing import StoreCompliance
        from datahike_async.konserve.testing.negative import BROKEN, BrokenBackend

        register_backend("broken", BrokenBackend(BROKEN[{kind!r}]))

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        class TestBroken(StoreCompliance):
            @pytest.fixture
            def store_config(self):
                return {{"backend": "broken", "id": str(uuid.uuid4())}}
        """)
    )
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(module)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, f"{kind} passed the suite:\n{done.stdout}"
    assert "1 failed" in done.stdout
