"""Files and streams of torch.save, old (a row of pickles and raw numbers) and new (an uncompressed zip)."""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from inversion.generators.formats.builders import STORAGE_TYPES, NetworkBuilders
from inversion.generators.formats.inert import Budget, Cursor, Global, Interpreter
from inversion.generators.formats.source import FileSource, RefusedError, Source, StorageRef, show, storage_ref

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MAX_NESTING = 3
MAX_DIRECTORY_BYTES = 16 << 20
MAX_ENTRIES = 50_000
END_OF_DIRECTORY = b"PK\x05\x06"
END_OF_DIRECTORY_64 = b"PK\x06\x06"
LOCAL_HEADER = struct.Struct("<4s5H3I2H")


class Deferred:
    """The bytes of a storage of an old stream, whose place is known when all of the stream has been read."""

    __slots__ = ("inner", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.inner: Source | None = None

    def read(self, offset: int, count: int) -> bytes:
        """A copy of `count` bytes."""
        return self._place().read(offset, count)

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill a writable buffer of bytes."""
        self._place().read_into(offset, target)

    def _place(self) -> Source:
        if self.inner is None:
            raise RefusedError("lacks the numbers of a storage")
        return self.inner


def network_builders(budget: Budget, depth: int = 0) -> NetworkBuilders:
    """Builders whose nested streams share a budget and may not be nested deeply."""

    def nested(source: Source) -> Any:
        budget.stream()
        if depth >= MAX_NESTING:
            raise RefusedError("has streams within streams within streams")
        return read_legacy(source, budget, depth + 1)

    return NetworkBuilders(nested)


def read_pickle(cursor: Cursor, budget: Budget, persistent: Callable[[Any], Any] | None = None, depth: int = 0) -> Any:
    """One pickle, as plain data and stand-ins."""
    return Interpreter(cursor, budget, network_builders(budget, depth), persistent).load()


def read_legacy(source: Source, budget: Budget, depth: int = 0) -> Any:
    """The value of an old torch.save stream; its tensors stay in the source."""
    cursor = Cursor(source)
    if read_pickle(cursor, budget) != LEGACY_MAGIC or read_pickle(cursor, budget) != LEGACY_PROTOCOL:
        raise RefusedError("holds bytes that are no stream of torch.save")
    system = read_pickle(cursor, budget)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise RefusedError("was written on a machine of another byte order")
    storages: dict[str, StorageRef] = {}

    def persistent(key: Any) -> Any:
        dtype, name, numel = storage_key(key)
        if len(key) > 5 and key[5] is not None:
            raise RefusedError("holds a view of a storage, as torch before 0.4 wrote")
        if name not in storages:
            storages[name] = storage_ref(Deferred(numel * dtype.itemsize), dtype, numel)
        if storages[name].dtype != dtype or storages[name].numel != numel:
            raise RefusedError("describes one storage in two ways")
        return storages[name]

    value = read_pickle(cursor, budget, persistent, depth)
    order = read_pickle(cursor, budget)
    names = [name for name in order if isinstance(name, str)] if isinstance(order, list) else []
    if len(names) != len(storages) or set(names) != set(storages):
        raise RefusedError("lists other storages than it uses")
    for name in names:
        _place(cursor, storages[name])
    return value


def _place(cursor: Cursor, storage: StorageRef) -> None:
    (numel,) = struct.unpack("<q", cursor.take(8))
    if numel != storage.numel:
        raise RefusedError(f"claims a storage of {storage.numel} numbers where {numel} are")
    assert isinstance(storage.source, Deferred)
    storage.source.inner = cursor.skip(numel * storage.dtype.itemsize)


def storage_key(key: Any) -> tuple[Any, str, int]:
    """(dtype, name, numel) of a persistent id of torch; RefusedError when it is none."""
    if not isinstance(key, tuple) or not 5 <= len(key) <= 6 or key[0] != "storage":
        raise RefusedError("refers to data in a way that torch does not")
    _, kind, name, _, numel = key[:5]
    if not isinstance(kind, Global) or kind.module != "torch" or kind.name not in STORAGE_TYPES:
        raise RefusedError(f"has a storage of an unknown type ({show(kind)})")
    if not isinstance(name, str) or type(numel) is not int or not 0 <= numel < 1 << 40:
        raise RefusedError("has a storage without a name or a size")
    return STORAGE_TYPES[kind.name], name, numel


def read_zip(file: FileSource, budget: Budget) -> Any:
    """The value of a new torch.save file; its tensors stay in the file."""
    entries = zip_entries(file)
    pickles = [name for name in entries if name.endswith("/data.pkl") or name == "data.pkl"]
    if any(name.endswith("constants.pkl") for name in entries):
        raise RefusedError("is a TorchScript program, not a checkpoint: save its state_dict with torch.save")
    if len(pickles) != 1:
        raise RefusedError("is a zip archive, but none that torch.save writes (it has no single data.pkl)")
    folder = pickles[0].removesuffix("data.pkl")
    order = entries.get(f"{folder}byteorder")
    if order is not None and order.read(0, min(order.size, 16)) != b"little":
        raise RefusedError("was written on a machine of another byte order")
    storages: dict[str, StorageRef] = {}

    def persistent(key: Any) -> Any:
        dtype, name, numel = storage_key(key)
        place = entries.get(f"{folder}data/{name}")
        if place is None:
            raise RefusedError(f"lacks the numbers of its storage {name[:40]}")
        found = storages.setdefault(name, storage_ref(place, dtype, numel))
        if found.dtype != dtype or found.numel != numel:
            raise RefusedError("describes one storage in two ways")
        return found

    return read_pickle(Cursor(entries[pickles[0]]), budget, persistent)


def zip_entries(file: FileSource) -> dict[str, FileSource]:
    """The entries of an uncompressed zip by name; RefusedError for anything that torch.save does not write."""
    _check_directory(file)
    try:
        with zipfile.ZipFile(file.file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, ValueError, OSError, struct.error) as error:
        raise RefusedError(f"is a damaged zip archive ({error!s:.80})") from error
    entries: dict[str, FileSource] = {}
    places: list[tuple[int, int]] = []
    for info in infos[: MAX_ENTRIES + 1]:
        name = info.filename
        _check_entry(info)
        if name in entries or len(entries) == MAX_ENTRIES:
            raise RefusedError(f"has the entry {name[:60]} twice, or too many entries")
        entries[name] = _entry(file, info)
        places.append((info.header_offset, entries[name].start + entries[name].size))
    places.sort()
    if any(end > start for (_, end), (start, _) in pairwise(places)):
        raise RefusedError("has entries that lie over each other")
    return entries


def _check_directory(file: FileSource) -> None:
    tail_bytes = min(file.size, (1 << 16) + 128)
    tail = file.read(file.size - tail_bytes, tail_bytes)
    at = tail.rfind(END_OF_DIRECTORY)
    if at < 0 or len(tail) < at + 22:
        raise RefusedError("is a zip archive without an end: was it copied or downloaded completely?")
    sizes = [struct.unpack_from("<I", tail, at + 12)[0]]
    at = tail.rfind(END_OF_DIRECTORY_64)
    if at >= 0 and len(tail) >= at + 56:
        sizes.append(struct.unpack_from("<Q", tail, at + 40)[0])
    if min(sizes) > MAX_DIRECTORY_BYTES:
        raise RefusedError("has a table of contents larger than any checkpoint's")


def _check_entry(info: zipfile.ZipInfo) -> None:
    name = info.filename
    if name.startswith(("/", "\\")) or ".." in name.split("/") or "\\" in name or ":" in name or len(name) > 512:
        raise RefusedError(f"has an entry with the path {name[:60]!r}, which would leave the archive")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise RefusedError(f"has an entry that is a link ({name[:60]!r})")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
        raise RefusedError(f"has a compressed or encrypted entry ({name[:60]!r}); torch.save writes none")


def _entry(file: FileSource, info: zipfile.ZipInfo) -> FileSource:
    header = LOCAL_HEADER.unpack(file.read(info.header_offset, LOCAL_HEADER.size))
    name_bytes, extra_bytes = header[9], header[10]
    name = file.read(info.header_offset + LOCAL_HEADER.size, name_bytes)
    encoding = "utf-8" if info.flag_bits & 0x800 else "cp437"
    if header[0] != b"PK\x03\x04" or name.decode(encoding, "replace") != info.orig_filename:
        raise RefusedError(f"has an entry that is not where its table says ({info.filename[:60]!r})")
    return file.window(info.header_offset + LOCAL_HEADER.size + name_bytes + extra_bytes, info.file_size)
