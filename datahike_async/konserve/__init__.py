"""konserve: async key-value stores behind one API. A wall: nothing of the database comes in here.

``blob`` is what a backend implements, ``store`` the API on top, ``backends`` the built-in ones,
``testing`` the suite that every backend passes. Imports anyio, msgpack, zstandard, and no sibling.
"""

from datahike_async.konserve.base import BlobStoreBase
from datahike_async.konserve.blob import (
    ABSENT,
    UNCHANGED,
    Blob,
    BlobStore,
    Capabilities,
    ConditionalDomain,
    Journal,
    JournalBlobStore,
    Write,
)
from datahike_async.konserve.errors import (
    CorruptValue,
    FencingUnsupported,
    KonserveError,
    NotAnAppendLog,
    OutcomeUnknown,
    RevisionMismatch,
    StoreClosed,
    StoreConfigError,
    StoreDenied,
    StoreExists,
    StoreFull,
    StoreIOError,
    StoreNotFound,
    StoreUnavailable,
    UnknownBackend,
    UnsupportedEncoding,
    UnsupportedOperation,
)
from datahike_async.konserve.registry import Backend, register_backend
from datahike_async.konserve.serializers import MessagePack, Serializer
from datahike_async.konserve.store import (
    Assoc,
    Store,
    connect_store,
    create_store,
    delete_store,
    release_store,
    store_exists,
)

__all__ = [
    "ABSENT",
    "UNCHANGED",
    "Assoc",
    "Backend",
    "Blob",
    "BlobStore",
    "BlobStoreBase",
    "Capabilities",
    "ConditionalDomain",
    "CorruptValue",
    "FencingUnsupported",
    "Journal",
    "JournalBlobStore",
    "KonserveError",
    "MessagePack",
    "NotAnAppendLog",
    "OutcomeUnknown",
    "RevisionMismatch",
    "Serializer",
    "Store",
    "StoreClosed",
    "StoreConfigError",
    "StoreDenied",
    "StoreExists",
    "StoreFull",
    "StoreIOError",
    "StoreNotFound",
    "StoreUnavailable",
    "UnknownBackend",
    "UnsupportedEncoding",
    "UnsupportedOperation",
    "Write",
    "connect_store",
    "create_store",
    "delete_store",
    "register_backend",
    "release_store",
    "store_exists",
]
