import uuid

import pytest

from datahike_async.konserve.testing import StoreCompliance


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture(params=["5001", "5002"])
def port(request):
    return request.param


class TestS3(StoreCompliance):
    @pytest.fixture
    def store_config(self, port):
        return {
            "backend": "s3",
            "id": str(uuid.uuid4()),
            "bucket": "bkt",
            "endpoint": f"http://127.0.0.1:{port}",
            "access-key": "k",
            "secret": "s",
        }
