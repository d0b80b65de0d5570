"""Bytes of index nodes and of single values.

A node is one format byte, one flag byte (1: zstd), and a msgpack array of column buffers in the
smallest integer width that holds them. Values keep their type exactly. Decoding trusts nothing:
whatever is not a node raises CorruptData.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from functools import cache, partial
from threading import local
from typing import Any, Final
from uuid import UUID

import msgpack
import numpy as np
import numpy.typing as npt

from datahike_async.edn.types import Char, Keyword, Symbol
from datahike_async.errors import CorruptData, UnsupportedFormat
from datahike_async.index.arrays import numbered
from datahike_async.index.columns import (
    BOOL,
    CODABLE,
    CODED,
    FLOAT,
    INSTANT,
    INT,
    OBJECT,
    Column,
    Rows,
    from_micros,
    micros,
)
from datahike_async.index.dictionary import Dictionary
from datahike_async.index.integers import (
    encode_ints,
    read_attributes,
    read_codes,
    read_ints,
    read_times,
)
from datahike_async.index.mixed import Mixed
from datahike_async.index.objects import object_array
from datahike_async.index.source import Address
from datahike_async.values.types import DoubleArray, FloatArray

__all__ = [
    "decode_rows",
    "encode_rows",
    "pack",
    "pack_values",
    "seal",
    "unpack",
    "unpack_values",
    "unseal",
]

_FORMAT: Final = 1
_ZSTD: Final = 1
# A node unfolds to so many bytes at most, or to so many times what is stored, whichever is more;
# what would not is written as it is. So damaged or foreign bytes cannot ask for memory at will.
_UNFOLDED: Final = 4 * 1024 * 1024
_TIMES: Final = 100
_MOST_ROWS: Final = 2**22
# A value may nest 64 levels, and each is two in the key of a branch.
_MOST_LEVELS: Final = 200
_ON_STACK: Final = 6


# -- single values -----------------------------------------------------------------------------

_KEYWORD, _SYMBOL, _UUID, _INSTANT, _DECIMAL, _BIGINT = 1, 2, 3, 4, 5, 6
_CHAR, _RATIO, _FLOATS, _DOUBLES, _TUPLE, _SET = 7, 8, 9, 10, 11, 12


def _default(value: Any) -> Any:
    kind = type(value)
    ext = msgpack.ExtType
    if kind is Keyword:
        return ext(_KEYWORD, value.text.encode())
    if kind is tuple:
        return ext(_TUPLE, _pack_nested(value))
    if kind is datetime:
        return ext(_INSTANT, micros(value).to_bytes(8, "big", signed=True))
    if kind is UUID:
        return ext(_UUID, value.bytes)
    if kind is Symbol:
        return ext(_SYMBOL, value.text.encode())
    if kind is int:
        return ext(_BIGINT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    if kind is Decimal:
        return ext(_DECIMAL, str(value).encode())
    if kind is Char:
        return ext(_CHAR, str(value).encode())
    if kind is Fraction:
        return ext(_RATIO, str(value).encode())
    if kind is FloatArray:
        return ext(_FLOATS, np.array(tuple(value), "<f4").tobytes())
    if kind is DoubleArray:
        return ext(_DOUBLES, np.array(tuple(value), "<f8").tobytes())
    if kind is frozenset or kind is set:
        return ext(_SET, _pack_nested(value))
    if kind is Address:
        return value.to_data()
    raise TypeError(f"{value!r} of type {kind.__name__} cannot be stored")


def _pack_nested(value: Iterable[Any]) -> bytes:
    return pack(list(value))


def _ext(code: int, data: bytes, below: int = 0) -> Any:
    if code == _KEYWORD:
        return Keyword(data.decode())
    if code == _TUPLE:
        return tuple(_nested(data, below))
    if code == _INSTANT:
        return from_micros(int.from_bytes(data, "big", signed=True))
    if code == _UUID:
        return UUID(bytes=data)
    if code == _SYMBOL:
        return Symbol(data.decode())
    if code == _BIGINT:
        return int.from_bytes(data, "big", signed=True)
    if code == _DECIMAL:
        return Decimal(data.decode())
    if code == _CHAR:
        return Char(data.decode())
    if code == _RATIO:
        # Not the text of any number: an exponent in damaged bytes would be carried out for ever.
        return Fraction(*map(int, data.decode().split("/")))
    if code == _FLOATS:
        return FloatArray(np.frombuffer(data, "<f4").tolist())
    if code == _DOUBLES:
        return DoubleArray(np.frombuffer(data, "<f8").tolist())
    if code == _SET:
        return frozenset(_nested(data, below))
    raise ValueError(f"unknown value type {code}")


def _nested(data: bytes, below: int) -> Any:
    """Decode what an ext type holds, ``below`` levels of ext types down."""
    if below >= _MOST_LEVELS:
        raise ValueError(f"values nest more than {_MOST_LEVELS} levels deep")
    hook = _HOOKS[below]
    if below < _ON_STACK:
        return msgpack.unpackb(data, ext_hook=hook, raw=False, strict_map_key=False)
    # unpackb keeps 40 KB of state on the C stack, and damaged bytes may nest until that is gone;
    # an Unpacker keeps it on the heap, and takes five times as long.
    reader = msgpack.Unpacker(
        ext_hook=hook,
        raw=False,
        strict_map_key=False,
        max_buffer_size=max(len(data), 1),
    )
    reader.feed(data)
    value = reader.unpack()
    if reader.tell() != len(data):
        raise ValueError("bytes follow a nested value")
    return value


_HOOKS: Final = tuple(partial(_ext, below=level + 1) for level in range(_MOST_LEVELS))


def pack(value: Any) -> bytes:
    """Encode one value, or lists and dicts of values, keeping every type.

    An ``Address`` becomes a list.
    """
    # The buffer of ``packb`` is 256 KB, which takes longer to get than most values to encode.
    packer = msgpack.Packer(default=_default, strict_types=True, use_bin_type=True, buf_size=512)
    return packer.pack(value)  # type: ignore[no-any-return]


def unpack(data: bytes | memoryview) -> Any:
    """Decode what :func:`pack` made. Raises CorruptData on anything else."""
    try:
        return msgpack.unpackb(data, ext_hook=_ext, raw=False, strict_map_key=False)
    except CorruptData:
        raise
    except Exception as error:
        raise CorruptData(f"Stored bytes are no value of ours: {error}") from error


def pack_values(values: Sequence[Any]) -> bytes:
    """Encode a list of canonical values."""
    return pack(list(values))


def unpack_values(data: bytes) -> list[Any]:
    """Decode a list of canonical values."""
    return unpack(data)  # type: ignore[no-any-return]


# -- columns -----------------------------------------------------------------------------------


def _column(column: Column) -> list[Any]:
    kind = column.kind
    if kind == OBJECT:
        return _mixture(column)
    data = column.data
    if kind in (INT, INSTANT):
        # In the order of values they rise.
        return [kind, encode_ints(data, rising=True)]
    if kind == FLOAT:
        return [kind, data.astype("<f8").tobytes()]
    if kind == BOOL:
        return [kind, np.packbits(data).tobytes()]
    assert column.dictionary is not None
    used, codes = numbered(data)
    return [kind, column.dictionary.values_of(used), encode_ints(codes)]


def _mixture(column: Column) -> list[Any]:
    """Encode a column of objects: the kind of each value, then a typed column a kind."""
    if isinstance(column, Mixed):
        own = column.compact()
        if all(part.kind != OBJECT for part in own.parts):
            if len(own.parts) == 1:
                return _column(own.parts[0])
            return [7, encode_ints(own.which), [_column(part) for part in own.parts]]
    values = column.data.tolist()
    types: dict[type, int] = {}
    ranks = np.fromiter((types.setdefault(type(v), len(types)) for v in values), np.int64)
    if len(types) < 2:
        return [OBJECT, values]
    parts = []
    for rank in range(len(types)):
        part = Column.of([values[i] for i in np.flatnonzero(ranks == rank).tolist()])
        parts.append(_column(part))
    return [7, encode_ints(ranks), parts]


def _read_column(data: Any, count: int, *, part: bool = False) -> Column:
    kind = data[0]
    if kind in (INT, INSTANT):
        return Column(kind, read_ints(data[1], count))
    if kind == FLOAT:
        out: npt.NDArray[Any] = np.frombuffer(data[1], "<f8").astype(np.float64)
        column = Column(FLOAT, out)
    elif kind == BOOL:
        packed = np.frombuffer(data[1], np.uint8)
        if len(packed) != (count + 7) // 8:
            raise ValueError("too few or too many booleans")
        column = Column(BOOL, np.unpackbits(packed, count=count).astype(np.bool_))
    elif kind == CODED:
        codes = read_codes(data[2], count, len(data[1]))
        if not CODABLE.issuperset(map(type, data[1])):
            raise ValueError("a dictionary holds a value of a type that has no codes")
        column = Column(CODED, codes, Dictionary(list(data[1])))
    elif kind == OBJECT:
        column = Column(OBJECT, object_array(list(data[1])))
    elif kind == 7 and not part:
        column = _read_mixture(data[1], data[2], count)
    else:
        raise ValueError(f"unknown column kind {kind!r}")
    if len(column) != count:
        raise ValueError(f"{len(column)} values where {count} belong")
    return column


def _read_mixture(ranks: Any, columns: Any, count: int) -> Column:
    """Return a column of several kinds, whose objects are made when somebody looks at them."""
    if len(columns) > 256:
        raise ValueError("a mixed column has too many kinds")
    if len(columns) > 256:
        raise ValueError("a mixed column has too many kinds")
    which = read_codes(ranks, count, len(columns), np.uint8)
    sizes = np.bincount(which, minlength=len(columns)).tolist()
    parts = [_read_column(c, n, part=True) for c, n in zip(columns, sizes, strict=True)]
    return Mixed(parts, which)


# -- nodes -------------------------------------------------------------------------------------


def encode_rows(rows: Rows) -> list[Any]:
    """Return the columns of a leaf as plain data."""
    return [
        len(rows),
        encode_ints(rows.e, rising=True),
        encode_ints(rows.a, rising=True),
        _column(rows.v),
        encode_ints(rows.t),
        None if rows.until is None else encode_ints(rows.until),
    ]


def decode_rows(data: Any) -> Rows:
    """Return the rows of :func:`encode_rows`; errors are the caller's to translate."""
    count, e, a, v, t, until = data
    if type(count) is not int or not 0 < count <= _MOST_ROWS:
        raise ValueError(f"{count!r} rows")
    return Rows(
        read_ints(e, count),
        read_attributes(a, count),
        _read_column(v, count),
        read_times(t, count),
        None if until is None else read_ints(until, count),
    )


@cache
def _zstd() -> Any:
    import zstandard

    return zstandard


class _Contexts(local):
    """A compressor and a decompressor a thread: making one takes longer than to use it."""

    def __init__(self) -> None:
        self.compressor = _zstd().ZstdCompressor(level=1, write_checksum=False)
        self.decompressor = _zstd().ZstdDecompressor()


_contexts: Final = cache(_Contexts)


_plain: Final[ContextVar[int]] = ContextVar("plain", default=0)


@contextmanager
def left_plain(size: int) -> Iterator[None]:
    """Leave nodes of so many bytes at most as they are inside the block, uncompressed."""
    before = _plain.set(size)
    try:
        yield
    finally:
        _plain.reset(before)


def seal(node: Any) -> bytes:
    """Encode the plain data of a node, compressed where that helps and is wanted."""
    raw = pack(node)
    if len(raw) <= _plain.get():
        return bytes((_FORMAT, 0)) + raw
    squeezed: bytes = _contexts().compressor.compress(raw)
    if len(squeezed) < len(raw) <= max(_UNFOLDED, _TIMES * len(squeezed)):
        return bytes((_FORMAT, _ZSTD)) + squeezed
    return bytes((_FORMAT, 0)) + raw


def unseal(data: bytes | memoryview) -> Any:
    """Decode the plain data of a node. Raises CorruptData or UnsupportedFormat."""
    return unpack(_unfolded(data))


def unfolded(data: bytes) -> bytes:
    """Return the bytes of a node without compression, and without what says so.

    They follow from what it holds alone. Raises CorruptData or UnsupportedFormat.
    """
    return bytes(_unfolded(data))


def _unfolded(data: bytes | memoryview) -> bytes | memoryview:
    if len(data) < 3 or data[0] == 0 or data[1] > 1:
        raise CorruptData("Stored bytes are no index node.")
    if data[0] > _FORMAT:
        raise UnsupportedFormat(
            f"An index node has format {data[0]}; this version reads up to {_FORMAT}. Upgrade "
            "datahike-async to read this database.",
            error=":db-was-written-with-newer-pss-version",
        )
    raw = data[2:]
    if data[1] == _ZSTD:
        zstd = _zstd()
        try:
            size = zstd.frame_content_size(raw)
            if not 0 <= size <= max(_UNFOLDED, _TIMES * len(raw)):
                raise CorruptData(f"{len(raw)} bytes of an index node claim to unfold to {size}.")
            raw = _contexts().decompressor.decompress(raw)
        except zstd.ZstdError as error:
            raise CorruptData(f"An index node cannot be decompressed: {error}") from error
    return raw
