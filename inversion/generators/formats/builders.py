"""The names that checkpoints hold, and the plain data that stands for what they would make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from inversion.generators.formats.inert import Global, Instance, LongText, OrderedItems, check_key
from inversion.generators.formats.source import (
    Latin1Source,
    MemorySource,
    RefusedError,
    Source,
    StorageRef,
    TensorRef,
    contiguous_stride,
    show,
    storage_ref,
    tensor_ref,
)

MAX_CLASS_STATE = 64
STORAGE_TYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
NUMPY_TYPES = {
    "f4": torch.float32,
    "f8": torch.float64,
    "f2": torch.float16,
    "i8": torch.int64,
    "i4": torch.int32,
    "i2": torch.int16,
    "i1": torch.int8,
    "u1": torch.uint8,
    "b1": torch.bool,
}
PERSISTENCE = "torch_utils.persistence"
"""Module of the function that wraps each network; projects that copied it have it below a package of their own."""

ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
INSTANCES = {
    ("dnnlib.util", "EasyDict"),
    ("dnnlib", "EasyDict"),
    ("dnnlib.tflib.network", "Network"),
    ("argparse", "Namespace"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("collections", "OrderedDict"),
}
PLAIN_NAMES = {("torch", name) for name in (*STORAGE_TYPES, "float32", "float64", "float16", "bfloat16", "int64")}
"""Names that stand for themselves and may not be called."""


@dataclass(frozen=True, eq=False, slots=True)
class Persistent:
    """A pickled network: its class's name, the state of the object, and the source text that came with it, unread."""

    class_name: str
    state: dict[Any, Any]
    module_src: str


class NetworkBuilders:
    """`known`, `call` and `make` of everything that generator checkpoints are pickled from.

    `nested` reads a stream of torch.save that is kept as bytes in the pickle.
    """

    def __init__(self, nested: Callable[[Source], Any]) -> None:
        self._nested = nested
        self._calls: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): _ordered,
            ("builtins", "set"): _set,
            ("__builtin__", "set"): _set,
            ("builtins", "bytes"): _no_bytes,
            ("__builtin__", "bytes"): _no_bytes,
            ("_codecs", "encode"): _encode,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_tensor"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("torch.storage", "_load_from_bytes"): self._load_from_bytes,
            ("torch", "Size"): lambda sizes=(): tuple(sizes) if isinstance(sizes, (tuple, list)) else (),
            ("torch", "device"): lambda *names: show(names[0] if names else None),
        }
        for module in ARRAY_MODULES:
            self._calls[module, "scalar"] = _scalar
            self._calls[module, "_reconstruct"] = _array

    def known(self, name: Global) -> bool:
        """Whether checkpoints have this name."""
        pair = (name.module, name.name)
        return pair in self._calls or pair in INSTANCES or pair in PLAIN_NAMES or _is_persistence(name)

    def call(self, name: Global, args: tuple[Any, ...]) -> Any:
        """The data that a call stands for."""
        if _is_persistence(name):
            return _persistent(args)
        function = self._calls.get((name.module, name.name))
        if function is None:
            return self.make(name, args)
        try:
            return function(*args)
        except TypeError as error:
            raise RefusedError(f"calls {name} with arguments that it does not take") from error

    def make(self, cls: Global, args: tuple[Any, ...]) -> Any:
        """The stand-in of an object."""
        if (cls.module, cls.name) == ("collections", "OrderedDict"):
            return _ordered(*args[:1])
        if (cls.module, cls.name) not in INSTANCES:
            raise RefusedError(f"makes an object of {cls}, which no checkpoint needs; nothing of it was run")
        return Instance(cls, args)

    def _load_from_bytes(self, data: Any) -> Any:
        return self._nested(byte_source(data))


def _is_persistence(name: Global) -> bool:
    known = name.module == PERSISTENCE or name.module.endswith(f".{PERSISTENCE}")
    return known and name.name == "_reconstruct_persistent_obj"


def byte_source(data: Any) -> Source:
    """Bytes of a pickle as a source, however they were written."""
    if isinstance(data, bytes):
        return MemorySource(data)
    if hasattr(data, "read_into"):
        source: Source = data
        return source
    raise RefusedError("has something else where bytes belong")


def _ordered(pairs: Any = ()) -> OrderedItems:
    if not isinstance(pairs, (list, tuple)) or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs):
        raise RefusedError("makes a dictionary of something that is no list of pairs")
    return OrderedItems((check_key(key), value) for key, value in pairs)


def _set(values: Any = ()) -> set[Any]:
    if not isinstance(values, (list, tuple)):
        raise RefusedError("makes a set of something that is no list")
    return {check_key(value) for value in values}


def _no_bytes() -> bytes:
    return b""


def _encode(text: Any, encoding: Any = "latin1") -> Any:
    if encoding not in ("latin1", "latin-1"):
        raise RefusedError("encodes text in a way that no checkpoint needs")
    if isinstance(text, LongText):
        return Latin1Source(text.source)
    if not isinstance(text, str):
        raise RefusedError("encodes something that is no text")
    return Latin1Source(MemorySource(text.encode("utf-8", "surrogatepass"))).decode()


def _tensor(
    storage: Any, offset: Any, sizes: Any, strides: Any, _grad: Any = False, hooks: Any = None, metadata: Any = None
) -> TensorRef:
    if not isinstance(storage, StorageRef):
        raise RefusedError("makes a tensor of something that is no storage")
    if hooks or metadata:
        raise RefusedError("holds a tensor with hooks, which would be run by others")
    return tensor_ref(storage, offset, sizes, strides)


def _parameter(data: Any, _grad: Any = True, hooks: Any = None) -> TensorRef:
    if not isinstance(data, TensorRef) or hooks:
        raise RefusedError("holds a parameter that is no plain tensor")
    return data


def _persistent(args: tuple[Any, ...]) -> Persistent:
    meta = args[0] if len(args) == 1 else None
    meta = meta.items if isinstance(meta, Instance) else meta
    if not isinstance(meta, Mapping) or not isinstance(meta.get("state"), dict):
        raise RefusedError("holds a network whose description is damaged")
    source = meta.get("module_src")
    name = meta.get("class_name")
    if not isinstance(name, str) or len(name) > 200:
        raise RefusedError("holds a network without a class name")
    return Persistent(name, meta["state"], source if isinstance(source, str) else "")


def _array(cls: Any, _shape: Any = None, _kind: Any = None) -> Instance:
    if not isinstance(cls, Global) or (cls.module, cls.name) != ("numpy", "ndarray"):
        raise RefusedError("makes an array of something that is no array")
    return Instance(cls, ())


def numpy_type(dtype: Any) -> tuple[str, str]:
    """(byte order, kind and size) of a stand-in for a numpy dtype; RefusedError for types that hold no numbers."""
    if not isinstance(dtype, Instance) or (dtype.cls.module, dtype.cls.name) != ("numpy", "dtype"):
        raise RefusedError("has an array without a type")
    code = dtype.args[0] if dtype.args else None
    state = dtype.state if isinstance(dtype.state, tuple) and len(dtype.state) >= 2 else (3, "|")
    if not isinstance(code, str) or code not in NUMPY_TYPES or state[1] not in ("<", "|", "="):
        raise RefusedError(f"has an array of type {show(code)}; allowed are plain little-endian numbers")
    return "<", code


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    order, code = numpy_type(dtype)
    if not isinstance(raw, bytes) or len(raw) != int(code[1:]):
        raise RefusedError("has a number whose bytes do not fit its type")
    return np.frombuffer(raw, order + code)[0].item()


def array_ref(value: Any) -> TensorRef:
    """The tensor of a stand-in for a numpy array; RefusedError when its parts do not fit."""
    state = value.state if isinstance(value, Instance) and value.cls.name == "ndarray" else None
    if not isinstance(state, tuple) or len(state) != 5:
        raise RefusedError("has something else where an array belongs")
    _, shape, dtype, fortran, raw = state
    storage = storage_ref(
        source := byte_source(raw), kind := NUMPY_TYPES[numpy_type(dtype)[1]], source.size // kind.itemsize
    )
    if not isinstance(shape, tuple) or any(type(n) is not int for n in shape):
        raise RefusedError("has an array without a shape")
    steps = contiguous_stride(shape)
    if fortran:
        steps = tuple(reversed(contiguous_stride(tuple(reversed(shape)))))
    found = tensor_ref(storage, 0, shape, steps)
    if found.numel != storage.numel:
        raise RefusedError(f"has an array of shape {show(shape)} in {source.size} bytes")
    return found
