"""safetensors files: a JSON header and raw numbers, read only where they are needed."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import torch

from inversion.generators.formats.source import (
    FileSource,
    RefusedError,
    TensorRef,
    contiguous_stride,
    show,
    storage_ref,
    tensor_ref,
)

MAX_HEADER_BYTES = 16 << 20
TYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def looks_like_safetensors(head: bytes) -> bool:
    """Whether a file that begins with these 16 bytes claims to be one."""
    return len(head) >= 10 and head[8:10] in (b'{"', b"{ ", b"{}")


def read_safetensors(file: FileSource) -> tuple[dict[str, TensorRef], dict[str, str]]:
    """Tensors by name, and the header's own texts; RefusedError for a header that does not fit the file."""
    count = int.from_bytes(file.read(0, 8), "little")
    if count > min(MAX_HEADER_BYTES, file.size - 8):
        raise RefusedError(f"is not a readable safetensors file (its header claims {show(count)} bytes)")
    try:
        header = json.loads(file.read(8, count).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"is not a readable safetensors file (its header is no JSON: {str(error)[:60]})") from error
    if not isinstance(header, dict):
        raise RefusedError("is not a readable safetensors file (its header is no table)")
    texts = header.pop("__metadata__", {})
    if not isinstance(texts, dict) or not all(isinstance(value, str) for value in texts.values()):
        raise RefusedError("is not a readable safetensors file (its texts are no texts)")
    data = file.window(8 + count, file.size - 8 - count)
    places: list[tuple[int, int]] = []
    tensors = {name: _tensor(data, name, row, places) for name, row in header.items()}
    if any(end > start for (_, end), (start, _) in pairwise(sorted(places))):
        raise RefusedError("is not a readable safetensors file (tensors lie over each other)")
    return tensors, texts


def _tensor(data: FileSource, name: str, row: Any, places: list[tuple[int, int]]) -> TensorRef:
    row = row if isinstance(row, dict) else {}
    dtype, shape, place = TYPES.get(str(row.get("dtype"))[:8]), row.get("shape"), row.get("data_offsets")
    numbers = isinstance(place, list) and len(place) == 2 and all(type(n) is int for n in place)
    if dtype is None or not isinstance(shape, list) or not numbers:
        raise RefusedError(f"is not a readable safetensors file (its header describes {name[:60]} in another way)")
    assert isinstance(place, list)
    start, end = place
    if not 0 <= start <= end <= data.size or (end - start) % dtype.itemsize:
        raise RefusedError(f"is not a readable safetensors file ({name[:60]} lies outside it)")
    places.append((start, end))
    source = data.window(start, end - start)
    storage = storage_ref(source, dtype, (end - start) // dtype.itemsize)
    if any(type(n) is not int for n in shape):
        raise RefusedError(f"is not a readable safetensors file ({name[:60]} has no shape)")
    found = tensor_ref(storage, 0, shape, contiguous_stride(tuple(shape)))
    if found.numel != storage.numel:
        raise RefusedError(f"is not a readable safetensors file ({name[:60]} has another size than its shape)")
    return found
