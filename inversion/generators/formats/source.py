"""Bytes of a file that are read only where they are needed, and tensors that are still in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import torch
from torch import Tensor

MAX_DIMENSIONS = 8


class RefusedError(Exception):
    """What is wrong with a file, as the second half of a sentence that begins with the file's name."""


def show(value: object) -> str:
    """A short text for a message; what a file nests is never printed, as its print may be endless."""
    if value is None or isinstance(value, (str, bytes, float)):
        return repr(value[:40] if isinstance(value, (str, bytes)) else value)
    if isinstance(value, int):
        return str(value) if abs(value) < 1 << 64 else "a giant number"
    if isinstance(value, (list, tuple)) and len(value) <= 16 and all(isinstance(part, int) for part in value):
        return "[" + ", ".join(show(part) for part in value) + "]"
    return f"a {type(value).__name__}"


class Source(Protocol):
    """Bytes at rest: `read` and `read_into` copy a part of them and refuse to leave them."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, count: int) -> bytes: ...

    def read_into(self, offset: int, target: memoryview) -> None: ...


@dataclass(frozen=True, eq=False, slots=True)
class FileSource:
    """`size` bytes of an open file from `start`; windows of windows end where their parents end."""

    file: BinaryIO
    start: int
    size: int

    def read(self, offset: int, count: int) -> bytes:
        """A copy of `count` bytes."""
        self._check(offset, count)
        self.file.seek(self.start + offset)
        data = self.file.read(count)
        if len(data) != count:
            raise RefusedError("became shorter while it was read")
        return data

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill a writable buffer of bytes."""
        self._check(offset, len(target))
        self.file.seek(self.start + offset)
        done = 0
        while done < len(target):
            count = self.file.readinto(target[done:])  # type: ignore[attr-defined]
            if not count:
                raise RefusedError("became shorter while it was read")
            done += count

    def window(self, offset: int, count: int) -> FileSource:
        """A part of this source."""
        self._check(offset, count)
        return FileSource(self.file, self.start + offset, count)

    def _check(self, offset: int, count: int) -> None:
        if offset < 0 or count < 0 or offset + count > self.size:
            raise RefusedError(f"is cut off or damaged: it claims {count} bytes where {max(self.size - offset, 0)} are")


@dataclass(frozen=True, eq=False, slots=True)
class MemorySource:
    """Bytes that are in memory already."""

    data: bytes

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self.data)

    def read(self, offset: int, count: int) -> bytes:
        """A copy of `count` bytes."""
        if offset < 0 or count < 0 or offset + count > len(self.data):
            raise RefusedError(f"is cut off or damaged: it claims {count} bytes where {len(self.data)} are")
        return self.data[offset : offset + count]

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill a writable buffer of bytes."""
        target[:] = self.read(offset, len(target))


@dataclass(frozen=True, eq=False, slots=True)
class Latin1Source:
    """Bytes kept as UTF-8 text of the characters 0 to 255, as pickle protocol 2 has them; decoded at each reading."""

    text: Source

    @property
    def size(self) -> int:
        """How many bytes the text stands for."""
        return len(self.decode())

    def read(self, offset: int, count: int) -> bytes:
        """A copy of `count` bytes."""
        return MemorySource(self.decode()).read(offset, count)

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill a writable buffer of bytes."""
        target[:] = self.read(offset, len(target))

    def decode(self) -> bytes:
        """All the bytes."""
        try:
            return self.text.read(0, self.text.size).decode("utf-8").encode("latin-1")
        except UnicodeError as error:
            raise RefusedError("holds bytes that are no latin-1 text where a pickle of protocol 2 needs it") from error


@dataclass(frozen=True, eq=False, slots=True)
class StorageRef:
    """`numel` numbers of one type in a source, from `start`."""

    source: Source
    dtype: torch.dtype
    numel: int
    start: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class TensorRef:
    """A tensor that is still in its file; everything in it has been checked against its storage."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        """The type of its numbers in the file."""
        return self.storage.dtype

    @property
    def numel(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    def read(self) -> Tensor:
        """The tensor, contiguous, of the file's type."""
        if self.stride == contiguous_stride(self.shape):
            return self._numbers(self.offset, self.numel).view(self.shape)
        extent = 1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        return self._numbers(self.offset, extent).as_strided(self.shape, self.stride).contiguous()

    def _numbers(self, first: int, count: int) -> Tensor:
        numbers = torch.empty(count, dtype=self.dtype)
        item = numbers.element_size()
        if count:
            raw = memoryview(numbers.view(torch.uint8).numpy())  # type: ignore[arg-type]
            self.storage.source.read_into(self.storage.start + first * item, raw)
        return numbers


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of rows in order, in elements."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def tensor_ref(storage: StorageRef, offset: object, shape: object, stride: object) -> TensorRef:
    """A checked tensor in a storage; RefusedError for sizes, strides or offsets that leave it or repeat its numbers."""
    sizes, steps = _counts(shape, "sizes"), _counts(stride, "strides")
    if len(sizes) != len(steps) or len(sizes) > MAX_DIMENSIONS:
        raise RefusedError(f"holds a tensor of {len(sizes)} sizes and {len(steps)} strides")
    if type(offset) is not int or not 0 <= offset <= storage.numel:
        raise RefusedError(f"holds a tensor that begins at {show(offset)} of {storage.numel} numbers")
    numel = math.prod(sizes)
    last = offset + sum((n - 1) * step for n, step in zip(sizes, steps, strict=True))
    if numel and (last >= storage.numel or numel > storage.numel):
        raise RefusedError(f"holds a tensor of sizes {show(sizes)} in a storage of {storage.numel} numbers")
    return TensorRef(storage, offset, sizes, steps if numel else contiguous_stride(sizes))


def _counts(values: object, what: str) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)) or len(values) > MAX_DIMENSIONS:
        raise RefusedError(f"holds a tensor whose {what} are not a short list")
    if any(type(value) is not int or not 0 <= value < 1 << 40 for value in values):
        raise RefusedError(f"holds a tensor with {what} {show(values)}; allowed are whole numbers from 0")
    return tuple(values)


def storage_ref(source: Source, dtype: torch.dtype, numel: object, start: int = 0) -> StorageRef:
    """A checked storage; RefusedError when it is larger than the bytes that are there."""
    if type(numel) is not int or numel < 0 or start + numel * dtype.itemsize > source.size:
        raise RefusedError(f"claims a storage of {show(numel)} numbers where {source.size - start} bytes are")
    return StorageRef(source, dtype, numel, start)
