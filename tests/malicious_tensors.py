"""Honest generator files in which one tensor or one statement about the architecture lies, in three containers."""

from __future__ import annotations

import io
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.checkpoint_files import nvidia_pickle, small_weights
from tests.malicious_pickles import laughs, legacy_stream, twice
from tests.opcodes import Lazy, Marker, Ops, apply, call, name, ordered, pickled, push

VICTIM = "synthesis.b4.const"
WIDE = 1 << 40


@dataclass(frozen=True)
class Stored:
    """What a file says of one tensor: the storage's persistent id and the arguments of the rebuilding call."""

    size: Any
    stride: Any
    numel: Any
    key: Any
    offset: Any = 0
    kind: Any = "FloatStorage"
    location: Any = "cpu"
    hooks: Any = None
    identity: Any = None
    view: Any = None
    rebuild: Any = None

    def persistent_id(self, stream: bool) -> Ops:
        """Opcodes of the storage; those of old streams may name a view of one, too."""
        kind = self.kind if isinstance(self.kind, Ops) else name("torch", self.kind)
        parts = ("storage", kind, self.key, self.location, self.numel, *([self.view] if stream else []))
        return Ops(push(parts if self.identity is None else self.identity) + pickle.BINPERSID)

    def tensor(self, storage: Ops) -> Ops:
        """Opcodes of the tensor over its storage."""
        hooks = ordered() if self.hooks is None else self.hooks
        rebuild = self.rebuild or name("torch._utils", "_rebuild_tensor_v2")
        return apply(rebuild, storage, self.offset, self.size, self.stride, False, hooks)


@lru_cache
def honest_network() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and arguments that all files of this module have."""
    return small_weights()


def honest() -> dict[str, Tensor]:
    """The weights alone."""
    return honest_network()[0]


def stored(tensor: Tensor, key: str) -> Stored:
    """What an honest file says of a tensor."""
    return Stored(tuple(tensor.shape), tuple(tensor.stride()), tensor.numel(), key)


def raw(tensor: Tensor) -> bytes:
    """A tensor's numbers, little-endian."""
    return tensor.contiguous().numpy().astype("<f4").tobytes()


def as_zip(changes: dict[str, Any], **record: bytes) -> bytes:
    """The state dict as a new torch.save file, the victim changed; `record` replaces whole entries."""
    pairs, entries = {}, {"version": b"3\n", "byteorder": b"little"}
    for index, (key, tensor) in enumerate(honest().items()):
        parts = stored(tensor, str(index))
        parts = replace(parts, **changes) if key == VICTIM else parts
        pairs[key] = parts.tensor(parts.persistent_id(stream=False))
        entries[f"data/{index}"] = raw(tensor)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for key, content in ({"data.pkl": pickled(ordered(pairs))} | entries | record).items():
            archive.writestr(f"archive/{key}", content)
    return file.getvalue()


def as_stream(changes: dict[str, Any]) -> bytes:
    """The state dict as an old torch.save stream, the victim changed."""
    pairs, keys, numbers = {}, [], b""
    for index, (key, tensor) in enumerate(honest().items()):
        parts = stored(tensor, str(index))
        parts = replace(parts, **changes) if key == VICTIM else parts
        pairs[key] = parts.tensor(parts.persistent_id(stream=True))
        keys.append(str(index))
        numbers += struct.pack("<q", tensor.numel()) + raw(tensor)
    return legacy_stream(ordered(pairs), keys, numbers)


def as_nvidia(changes: dict[str, Any]) -> bytes:
    """NVIDIA's pickle of the bare generator, the victim changed inside its own stream and outside."""
    state, kwargs = honest_network()
    tensor = state[VICTIM]
    parts = replace(stored(tensor, "0"), **changes)
    numbers = struct.pack("<q", tensor.numel()) + raw(tensor)
    stream = legacy_stream(parts.persistent_id(stream=True), ["0"], numbers)
    ops = parts.tensor(call("torch.storage", "_load_from_bytes", stream))
    placeholder = "the victim's tensor"
    return nvidia_bytes(state | {VICTIM: placeholder}, kwargs).replace(push(placeholder), ops)


def nvidia_bytes(state: dict[str, Any], kwargs: dict[str, Any], **options: Any) -> bytes:
    """NVIDIA's pickle of the bare generator, protocol 3 (no frames, so that bytes can be exchanged)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.pkl"
        nvidia_pickle(path, state, kwargs, **{"protocol": 3, "whole": False} | options)
        return path.read_bytes()


def lies(m: Marker) -> dict[str, dict[str, Any]]:
    """What is untrue of the victim, whose true size is (4, 4, 4) over 64 numbers."""
    rebuild_parts = {"identity": ("storage", name("torch", "FloatStorage"))}
    return {
        "giant": {"size": (WIDE, WIDE), "stride": (WIDE, 1)},
        "giant_numel": {"numel": WIDE, "size": (WIDE,), "stride": (1,)},
        "wrapping_product": {"size": (1 << 62, 4, 4), "stride": (16, 4, 1)},
        "wrapping_offset": {"offset": (1 << 63) - 32},
        "beyond_64_bits": {"offset": 1 << 200, "size": (1 << 200, 1, 1)},
        "negative_size": {"size": (-4, 4, 4)},
        "negative_stride": {"stride": (-16, 4, 1)},
        "negative_offset": {"offset": -1},
        "offset_past_end": {"offset": 1},
        "stride_past_end": {"stride": (17, 4, 1)},
        "expanded": {"size": (10_000, 10_000, 10_000), "stride": (0, 0, 0)},
        "numel_over_end": {"numel": 65, "size": (65,), "stride": (1,)},
        "numel_negative": {"numel": -64},
        "numel_text": {"numel": "64"},
        "sizes_float": {"size": (4.0, 4.0, 4.0)},
        "sizes_nan": {"size": (float("nan"), 4, 4)},
        "sizes_text": {"size": "444"},
        "sizes_none": {"size": None},
        "ranks_differ": {"stride": (4, 1)},
        "rank_100000": {"size": (1,) * 100_000, "stride": (1,) * 100_000},
        "sizes_laugh": {"size": laughs(*twice("tuple"))},
        "kind_unknown": {"kind": "NonsenseStorage"},
        "kind_quantized": {"kind": "QUInt4x2Storage"},
        "kind_call": {"kind": name("os", "system")},
        "kind_text": {"kind": push("FloatStorage")},
        "kind_wider": {"kind": "DoubleStorage"},
        "key_unknown": {"key": "99999"},
        "key_number": {"key": 0},
        "key_path": {"key": f"../../../..{m.name}"},
        "key_tuple": {"key": ("0",)},
        "identity_short": rebuild_parts,
        "identity_text": {"identity": "storage"},
        "identity_other": {"identity": ("tensor", name("torch", "FloatStorage"), "0", "cpu", 64)},
        "hook": {"hooks": ordered({0: name("os", "system")})},
        "hook_called": {"hooks": ordered({0: call("os", "system", m.shell)})},
        "rebuilt_by_call": {"rebuild": name("builtins", "eval")},
        "rebuilt_sparse": {"rebuild": name("torch._utils", "_rebuild_sparse_tensor")},
        "rebuilt_by_type": {"rebuild": name("torch", "empty")},
    }


def lying_tensors(m: Marker) -> Lazy:
    """Each lie in each container, and the honest ones."""
    containers: dict[str, Callable[[dict[str, Any]], bytes]]
    containers = {"zip": as_zip, "stream": as_stream, "nvidia": as_nvidia}
    found: Lazy = {}
    of_streams = {"view_past_end": {"view": ("0_view", 0, WIDE)}, "view_call": {"view": call("os", "system", m.shell)}}
    for container, write in containers.items():
        found[f"{container}_tensors_honest_harmless"] = lambda write=write: write({})
        for lie, changes in (lies(m) | (of_streams if container != "zip" else {})).items():
            found[f"{container}_tensor_{lie}"] = lambda write=write, changes=changes: write(changes)
    return found


def reshaped(**changes: Any) -> bytes:
    """An honest pickle of NVIDIA's that states another architecture than its tensors have."""
    state, kwargs = honest_network()
    return nvidia_bytes(state, kwargs | changes)


def restated(old: Any, new: Any) -> bytes:
    """An honest pickle of NVIDIA's, the first `old` in it replaced."""
    state, kwargs = honest_network()
    data = nvidia_bytes(state, kwargs)
    assert push(old) in data
    return data.replace(push(old), push(new), 1)


def lying_architectures(m: Marker) -> Lazy:
    """Statements about a network that would build another or an endless one; a reader need not heed all of them."""
    state, kwargs = honest_network()
    gone = {key: value for key, value in state.items() if key != VICTIM}
    dotted_name = gone | {f"synthesis.b4.{VICTIM}": state[VICTIM]}
    hostile = f"{m.code}\nraise RuntimeError('the source was executed')\n"
    return {
        "config_resolution_harmless": lambda: reshaped(img_resolution=1 << 20),
        "config_resolution_text_harmless": lambda: reshaped(img_resolution="8; import os"),
        "config_resolution_none_harmless": lambda: reshaped(img_resolution=None),
        "config_channels_harmless": lambda: reshaped(channel_base=WIDE, channel_max=WIDE),
        "config_latent_harmless": lambda: reshaped(z_dim=WIDE, w_dim=WIDE),
        "config_labels_harmless": lambda: reshaped(c_dim=WIDE),
        "config_colours_harmless": lambda: reshaped(img_channels=WIDE),
        "config_layers_harmless": lambda: reshaped(mapping_kwargs={"num_layers": WIDE}),
        "config_layers_call": lambda: reshaped(mapping_kwargs={"num_layers": torch.nn.functional.linear}),
        "config_architecture_harmless": lambda: reshaped(architecture="__class__"),
        "config_class_harmless": lambda: nvidia_bytes(state, {}, class_name="Discriminator"),
        "config_missing": lambda: nvidia_bytes(gone, kwargs),
        "config_misplaced": lambda: nvidia_bytes(dotted_name, kwargs),
        "config_wrong_shape": lambda: nvidia_bytes(state | {VICTIM: torch.zeros(4, 4, 5)}, kwargs),
        "config_no_tensor": lambda: nvidia_bytes(state | {VICTIM: "const"}, kwargs),
        "config_complex": lambda: nvidia_bytes(state | {VICTIM: torch.zeros(4, 4, 4, dtype=torch.complex64)}, kwargs),
        "meta_function_harmless": lambda: restated("class", "func!"),
        "meta_class_name": lambda: restated("class_name", 7),
        "meta_state": lambda: restated("state", "other"),
        "meta_modules": lambda: restated("_modules", "modules"),
        "meta_empty": lambda: pickled(call("torch_utils.persistence", "_reconstruct_persistent_obj", {})),
        "meta_text": lambda: pickled(call("torch_utils.persistence", "_reconstruct_persistent_obj", "x")),
        "meta_no_arguments": lambda: pickled(call("torch_utils.persistence", "_reconstruct_persistent_obj")),
        "modules_endless": lambda: modules(cycle=True),
        "modules_laughing": lambda: modules(cycle=False),
        "hostile_source_harmless": lambda: nvidia_bytes(state, kwargs, source=hostile),
    }


def modules(cycle: bool) -> bytes:
    """A persistent module that contains itself, or each of 60 containing the one before twice."""

    def module(children: Ops) -> Ops:
        inner = {"_modules": children, "_parameters": ordered(), "_buffers": ordered(), "_init_kwargs": {}}
        meta = {"type": "class", "version": 6, "module_src": "", "class_name": "Generator", "state": inner}
        return call("torch_utils.persistence", "_reconstruct_persistent_obj", meta)

    if not cycle:
        pair = pickle.MARK + push("mapping") + b"@" + push("synthesis") + b"@" + pickle.SETITEMS
        return pickled(laughs(module(ordered()), module(Ops(ordered() + pair))))
    remembered = Ops(ordered() + pickle.BINPUT + b"\0")
    whole = module(remembered) + pickle.BINPUT + b"\1"
    filling = pickle.BINGET + b"\0" + push("mapping") + pickle.BINGET + b"\1" + pickle.SETITEM + pickle.POP
    return pickled(Ops(whole + filling))
