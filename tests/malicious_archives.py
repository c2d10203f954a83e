"""Archives whose tables lie, and files of other kinds that people take for generators."""

from __future__ import annotations

import gzip
import io
import json
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from tests.malicious_pickles import calls
from tests.malicious_tensors import as_zip, honest
from tests.opcodes import Lazy, Marker, pickled, push

CENTRAL, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"
END_FORM = struct.Struct("<4s4H2IH")
BOMB_BYTES = 128 << 20


@lru_cache
def honest_zip() -> bytes:
    """An honest torch.save file."""
    return as_zip({})


def appended(name: str | zipfile.ZipInfo, content: bytes) -> bytes:
    """An honest torch.save file with one more entry."""
    file = io.BytesIO(honest_zip())
    with zipfile.ZipFile(file, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name that is there already
        archive.writestr(name, content)
    return file.getvalue()


def linked(name: str, target: str) -> bytes:
    """The file with one more entry that is a symbolic link."""
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return appended(info, target.encode())


def header_of(data: bytes, entry: str, signature: bytes) -> int:
    """Where an entry's header begins: in the table (`CENTRAL`) or before its content (`LOCAL`)."""
    encoded, name_at = f"archive/{entry}".encode(), {CENTRAL: 46, LOCAL: 30}[signature]
    at = data.index(signature)
    while not data.startswith(encoded, at + name_at):
        at = data.index(signature, at + 4)
    return at


def patched(entry: str, offset: int, form: str, *values: int, signature: bytes = CENTRAL) -> bytes:
    """An honest torch.save file, fields in one of an entry's headers replaced."""
    data = bytearray(honest_zip())
    struct.pack_into(form, data, header_of(data, entry, signature) + offset, *values)
    return bytes(data)


def sized(entry: str, size: int) -> bytes:
    """The file with an entry of that size, by the table."""
    return patched(entry, 20, "<II", size, size)


def with_end(**changes: int) -> bytes:
    """An honest torch.save file, fields of its end record replaced: entries, size or start of the table."""
    data = honest_zip()
    at = data.rindex(END)
    fields = list(END_FORM.unpack_from(data, at))
    for field, value in changes.items():
        if field == "entries":
            fields[3] = fields[4] = value
        else:
            fields[{"size": 5, "start": 6}[field]] = value
    return data[:at] + END_FORM.pack(*fields)


def with_zip64(entries: int, size: int, start: int) -> bytes:
    """The file with a 64-bit end record that claims what it is told."""
    data = honest_zip()
    at = data.rindex(END)
    record = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, entries, entries, size, start)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, at, 1)
    end = END_FORM.pack(END, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return data[:at] + record + locator + end


def deflated(entry: str, content: bytes, padding: int) -> bytes:
    """The file with one entry compressed, its content followed by that many zeros."""
    file = io.BytesIO()
    zeros = bytes(1 << 20)
    with zipfile.ZipFile(io.BytesIO(honest_zip())) as source, zipfile.ZipFile(file, "w") as archive:
        for info in source.infolist():
            if info.filename != f"archive/{entry}":
                archive.writestr(info.filename, source.read(info))
        packed = zipfile.ZipInfo(f"archive/{entry}")
        packed.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(packed, "w", force_zip64=True) as target:
            target.write(content)
            for _ in range(padding >> 20):
                target.write(zeros)
    return file.getvalue()


def renamed(old: str, new: str) -> bytes:
    """The file with an entry of another name, in its header and in the table."""
    assert len(old) == len(new)
    return honest_zip().replace(f"archive/{old}".encode(), f"archive/{new}".encode())


def zip_of(entries: dict[str, bytes]) -> bytes:
    """A stored zip of these entries."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def unzipped() -> dict[str, bytes]:
    """The entries of the honest file."""
    with zipfile.ZipFile(io.BytesIO(honest_zip())) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def lying_zips(m: Marker) -> Lazy:
    """Zips of torch.save's whose table, names or pickle lie."""
    touch = pickled(calls(m)["os_system"])
    script = {"archive/constants.pkl": pickled(()), "archive/code/__torch__.py": m.code.encode()}
    other_root = {name.replace("archive/", "second/"): content for name, content in unzipped().items()}
    return {
        "zip_call": lambda: as_zip({}, **{"data.pkl": touch}),
        "zip_bomb_numbers": lambda: deflated("data/0", b"", BOMB_BYTES),
        "zip_bomb_pickle": lambda: deflated("data.pkl", unzipped()["archive/data.pkl"], BOMB_BYTES),
        "zip_deflated_call": lambda: deflated("data.pkl", touch, 0),
        "zip_parent_name": lambda: appended(f"../../../../../..{m.name}", b"x"),
        "zip_parent_name_inside": lambda: appended("archive/data/../../../x", b"x"),
        "zip_absolute_name": lambda: appended(m.name, b"x"),
        "zip_backslash_name": lambda: appended("..\\..\\x", b"x"),
        "zip_drive_name": lambda: appended("C:/x", b"x"),
        "zip_link": lambda: linked("archive/data/link", m.name),
        "zip_link_as_pickle": lambda: linked("second/data.pkl", m.name),
        "zip_same_name_twice": lambda: honest_zip().replace(b"archive/data/11", b"archive/data/10"),
        "zip_second_pickle": lambda: appended("archive/data.pkl", touch),
        "zip_second_root": lambda: zip_of(unzipped() | other_root),
        "zip_place_of_another": lambda: patched("data/1", 42, "<I", 0),
        "zip_overlapping": lambda: sized("data/1", 400),
        "zip_offset_past_end": lambda: patched("data/1", 42, "<I", 0xFFFFFF00),
        "zip_size_past_end": lambda: sized("data/1", 0x7FFFFFF0),
        "zip_packed_size_differs": lambda: patched("data/1", 20, "<I", 1),
        "zip_encrypted": lambda: patched("data.pkl", 8, "<H", 1),
        "zip_unknown_method": lambda: patched("data.pkl", 10, "<H", 99),
        "zip_method_deflate": lambda: patched("data/0", 10, "<H", 8),
        "zip_header_names_differ": lambda: patched(
            "data/1", 30 + len("archive/data/"), "<B", ord("7"), signature=LOCAL
        ),
        "zip_big_endian": lambda: as_zip({}, byteorder=b"big"),
        "zip_odd_endian": lambda: as_zip({}, byteorder=b"middle"),
        "zip_no_pickle": lambda: renamed("data.pkl", "atad.pkl"),
        "zip_no_numbers": lambda: zip_of({"archive/data.pkl": unzipped()["archive/data.pkl"]}),
        "zip_in_zip": lambda: zip_of({"network.pt": honest_zip()}),
        "zip_of_pickle": lambda: zip_of({"network.pkl": touch}),
        "zip_of_arrays": npz,
        "zip_script": lambda: zip_of(unzipped() | script),
        "zip_empty": lambda: zip_of({}),
        "zip_many_entries_harmless": lambda: with_end(entries=0xFFFF),
        "zip_table_huge": lambda: with_end(size=0xFFFFFFF0),
        "zip_table_past_end": lambda: with_end(start=0xFFFFFFF0),
        "zip64_entries": lambda: with_zip64(1 << 40, 1 << 20, 0),
        "zip64_size": lambda: with_zip64(3, 1 << 62, 0),
        "zip64_start": lambda: with_zip64(3, 1 << 10, (1 << 63) + 5),
        "zip64_all": lambda: with_zip64((1 << 64) - 1, (1 << 64) - 1, (1 << 64) - 1),
        "zip_short_numbers": lambda: as_zip({}, **{"data/3": b"\0\0"}),
        "zip_name_not_text": lambda: honest_zip().replace(b"archive/data.pkl", b"archive/\xff\xfe\x00\x1b.pkl"),
    }


def npz() -> bytes:
    """A numpy archive."""
    file = io.BytesIO()
    np.savez(file, **{"mapping.w_avg": np.zeros(8, np.float32)})
    return file.getvalue()


def tensors_file(header: Any, numbers: bytes = bytes(64), length: int | None = None) -> bytes:
    """A safetensors file of a header, as JSON unless it is bytes already."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + numbers


def entry(start: int = 0, end: int = 64, shape: Any = (16,), dtype: Any = "F32") -> dict[str, Any]:
    """One tensor in such a header."""
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": [start, end]}


def lying_tensor_files(m: Marker) -> Lazy:
    """Safetensors files whose header lies."""
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    lists = b'{"__metadata__":{"a":"b"},"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    first, again = json.dumps(entry()), json.dumps(entry(0, 64, (4, 4)))
    return {
        "safetensors_length_2_60": lambda: struct.pack("<Q", 1 << 60),
        "safetensors_length_2_60_with_text": lambda: tensors_file({"a": entry()}, length=1 << 60),
        "safetensors_length_2_63": lambda: tensors_file({"a": entry()}, length=(1 << 64) - 1),
        "safetensors_overlapping": lambda: tensors_file({"a": entry(), "b": entry(32, 64, (8,))}),
        "safetensors_past_end": lambda: tensors_file({"a": entry(0, 1 << 50, (1 << 48,))}),
        "safetensors_negative": lambda: tensors_file({"a": entry(-64, 0)}),
        "safetensors_backwards": lambda: tensors_file({"a": entry(64, 0)}),
        "safetensors_hole": lambda: tensors_file({"a": entry(32, 64, (8,))}),
        "safetensors_shape": lambda: tensors_file({"a": entry(shape=(1 << 40, 1 << 40))}),
        "safetensors_shape_negative": lambda: tensors_file({"a": entry(shape=(-4, -4))}),
        "safetensors_shape_wraps": lambda: tensors_file({"a": entry(shape=(1 << 62, 4, 4, 16))}),
        "safetensors_shape_text": lambda: tensors_file({"a": entry(shape="16")}),
        "safetensors_dtype": lambda: tensors_file({"a": entry(dtype="F99")}),
        "safetensors_deep": lambda: tensors_file(deep),
        "safetensors_deep_lists": lambda: tensors_file(lists),
        "safetensors_twice": lambda: tensors_file(f'{{"a":{first},"a":{again}}}'.encode()),
        "safetensors_list": lambda: tensors_file([1, 2]),
        "safetensors_not_json": lambda: tensors_file(b"{" + b"\xff" * 40),
        "safetensors_empty": lambda: tensors_file({}, b""),
        "safetensors_digits": lambda: tensors_file(b'{"a":' + b"9" * 1_000_000 + b"}"),
        "safetensors_other_model": lambda: save({"lm_head.weight": torch.zeros(4, 4)}),
        "safetensors_header_call": lambda: save(
            {"mapping.w_avg": torch.zeros(8)}, {"photodrag_generator": json.dumps({"stylegan2": m.code})}
        ),
        "safetensors_header_huge": lambda: save(dict(honest()), {"photodrag_generator": json.dumps(huge_header())}),
        "safetensors_header_deep": lambda: save(
            {"mapping.w_avg": torch.zeros(8)}, {"photodrag_generator": "[" * 100_000 + "]" * 100_000}
        ),
    }


def huge_header() -> dict[str, Any]:
    """Our own header for a generator that no machine holds."""
    return {"stylegan2": {"resolution": 1024, "z_dim": 1 << 40, "w_dim": 1 << 40, "channel_max": 1 << 40}}


def old_tar(m: Marker) -> bytes:
    """A tar archive as torch wrote before its streams, its pickle a call."""
    file = io.BytesIO()
    contents = {"sys_info": pickled({}), "pickle": pickled(calls(m)["os_system"]), "tensors": push(1), "storages": b"0"}
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def other_files(m: Marker) -> Lazy:
    """Files of other kinds."""
    page = b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head></html>"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 381673535\n"
    return {
        "empty": lambda: b"",
        "one_byte": lambda: b"\x80",
        "text": lambda: b"This is not a generator.\n" * 20,
        "python_source": f"import os\n{m.code}\n".encode,
        "zeros": lambda: bytes(1 << 16),
        "ones": lambda: b"\xff" * (1 << 16),
        "png": lambda: b"\x89PNG\r\n\x1a\n" + zlib.compress(bytes(1000)),
        "jpeg": lambda: b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(100),
        "elf": lambda: b"\x7fELF\x02\x01\x01" + bytes(200),
        "windows_program": lambda: b"MZ\x90\x00" + bytes(200),
        "hdf5": lambda: b"\x89HDF\r\n\x1a\n" + bytes(200),
        "numpy_array": lambda: b"\x93NUMPY\x01\x00" + bytes(100),
        "gguf": lambda: b"GGUF\x03\0\0\0" + b"\xff" * 16,
        "onnx": lambda: b"\x08\x07\x12\x07pytorch\x1a\x051.9" + bytes(64),
        "gzip": lambda: gzip.compress(honest_zip(), mtime=0),
        "gzip_bomb": lambda: gzip.compress(bytes(BOMB_BYTES >> 2), mtime=0),
        "rar": lambda: b"Rar!\x1a\x07\x01\x00" + bytes(64),
        "seven_zip": lambda: b"7z\xbc\xaf\x27\x1c" + bytes(64),
        "web_page": lambda: page,
        "git_lfs_pointer": lambda: pointer,
        "json": lambda: json.dumps({"weights": [0.5] * 20}).encode(),
        "torch_tar": lambda: old_tar(m),
    }


def malicious_archives(m: Marker) -> Lazy:
    """All of them by name."""
    return lying_zips(m) | lying_tensor_files(m) | other_files(m)
