"""The S3 backend of datahike-async: blobs are objects, compare-and-set is a conditional put.

``settings`` reads configurations, ``client`` opens the connection, ``errors`` says what a failed
request means, ``store`` keeps blobs, ``multipart`` writes large ones, ``backend`` makes, opens and
removes stores. Nothing here knows what the blobs mean.
"""

from __future__ import annotations

from datahike_async_s3.backend import S3Backend

__all__ = ["S3Backend"]
