"""The LMDB backend of datahike-async: every operation is one LMDB transaction in a worker thread.

``environment`` shares one environment among the stores of a path, ``store`` keeps blobs in it,
``backend`` makes, opens and removes stores. Nothing here knows what the blobs mean.
"""

from __future__ import annotations

from datahike_async_lmdb.backend import LmdbBackend
from datahike_async_lmdb.store import LmdbBlobStore

__all__ = ["LmdbBackend", "LmdbBlobStore"]
