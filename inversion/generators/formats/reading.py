"""What a file holds, told by its content: the format, the generator's tensors and its architecture."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import torch

from inversion.generators.formats import nvidia, rosinality, tensorflow
from inversion.generators.formats.builders import Persistent
from inversion.generators.formats.inert import Budget, Cursor, Instance, OrderedItems
from inversion.generators.formats.lazy import LazyState, LazyTensor, given, lazy
from inversion.generators.formats.safetensors_file import looks_like_safetensors, read_safetensors
from inversion.generators.formats.shapes import stylegan2_config, stylegan3_config
from inversion.generators.formats.source import FileSource, RefusedError, TensorRef
from inversion.generators.formats.torch_files import (
    LEGACY_MAGIC,
    read_legacy,
    read_pickle,
    read_zip,
)
from inversion.generators.layers import fir_kernel

HEADER_KEY = "photodrag_generator"
DELTA_KEY = "photodrag_delta"
STATS_PREFIX = "stats."
MAX_FILE_BYTES = 64 << 30
GENERATOR_KEYS = ("g_ema", "G_ema", "generator", "G", "state_dict", "model", "g")
PREFIXES = ("G_ema.", "g_ema.", "generator.", "G.", "decoder.", "module.")
CONV = re.compile(r"(synthesis\.b\d+\.conv[01])\.weight")
NVIDIA_CLAMP = 256.0
NOISE_SEED = 0
FOREIGN = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x7fELF": "a program",
    b"\x89HDF": "an HDF5 file (Keras)",
    b"<!DO": "a web page: the download needs another link, or a login",
    b"<htm": "a web page: the download needs another link, or a login",
    b"vers": "a git-lfs pointer: fetch the file itself with git lfs pull",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"GGUF": "a GGUF file",
}


@dataclass(eq=False, slots=True)
class Contents:
    """A file's generator: `config` is an architecture's config, or its fields for the family that `family` names."""

    format: str
    config: Any
    state: LazyState
    family: str = ""
    notes: list[str] = field(default_factory=list)
    extra: Mapping[str, Any] = field(default_factory=dict)
    stats: LazyState = field(default_factory=dict)
    source_sha256: str | None = None


def read_contents(file: BinaryIO) -> Contents:
    """What an open file holds; RefusedError, or the architecture's ModelError, for what is not a generator."""
    size = file.seek(0, 2)
    whole = FileSource(file, 0, size)
    if size > MAX_FILE_BYTES:
        raise RefusedError(f"has {size >> 30} GiB, more than any generator")
    if not size:
        raise RefusedError("is empty")
    head = whole.read(0, min(size, 512))
    budget = Budget()
    if head.startswith(b"PK\x03\x04"):
        return from_value(read_zip(whole, budget), "module")
    if head[:1] == pickle.PROTO:
        return _from_pickle(whole, budget)
    if looks_like_safetensors(head):
        return _from_safetensors(whole)
    for start, name in FOREIGN.items():
        if head.lower().startswith(start.lower()):
            raise RefusedError(f"is {name}, not a generator")
    if head[257:262] == b"ustar":
        raise RefusedError("is a tar archive, as torch before 0.1.10 wrote: save it again with a newer torch")
    raise RefusedError("is not a generator file of a known format (pickle, .pt or safetensors)")


def _from_pickle(whole: FileSource, budget: Budget) -> Contents:
    value = read_pickle(Cursor(whole), budget)
    if value == LEGACY_MAGIC:
        return from_value(read_legacy(whole, budget), "module")
    return from_value(value, "nvidia")


def from_value(value: Any, whole_network: str) -> Contents:
    """The generator in what a pickle holds; `whole_network` names the format of a pickled network."""
    if tensorflow.is_tensorflow(value):
        state, values = tensorflow.tensorflow_state(value)
        return _published("tensorflow", state, values, None)
    network = nvidia.pick_network(value)
    if network is not None:
        return _from_network(network, whole_network)
    tensors, root = _state_dict(value)
    if rosinality.is_rosinality(tensors):
        average = root.get("latent_avg")
        return _published(
            "rosinality",
            rosinality.published_state(tensors, average if isinstance(average, TensorRef) else None),
            {},
            None,
        )
    return _published("state_dict", {name: lazy(ref) for name, ref in tensors.items()}, {}, NVIDIA_CLAMP)


def _from_network(network: Persistent, format_name: str) -> Contents:
    state = {name: lazy(ref) for name, ref in nvidia.network_tensors(network).items()}
    values = nvidia.constructor_values(network)
    # The two repositories' constructors differ in what they do when nothing is said.
    clamp = None if "synthesis_kwargs" in nvidia.plain_dict(network.state.get("_init_kwargs")) else NVIDIA_CLAMP
    found = _published(format_name, state, values, clamp)
    if network.module_src:
        found.source_sha256 = hashlib.sha256(network.module_src.encode("utf-8", "replace")).hexdigest()
    return found


def _published(
    format_name: str, state: dict[str, LazyTensor], values: Mapping[str, Any], clamp: float | None
) -> Contents:
    """The contents for tensors under the published names: architecture, and what the file left out."""
    notes: list[str] = []
    if "synthesis.input.freqs" in state:
        config: Any = stylegan3_config(state, values)
    elif "synthesis.b4.const" in state:
        config = stylegan2_config(state, values, clamp)
        _fill_in(state, config, notes)
    else:
        names = ", ".join(sorted(state)[:3])[:120] or "nothing"
        raise RefusedError(f"holds no StyleGAN2 or StyleGAN3 generator (its tensors begin with {names})")
    if "mapping.w_avg" not in state:
        notes.append("The file has no mean latent; the mean of 10,000 mapped samples takes its place.")
    return Contents(format_name, config, state, notes=notes)


def _fill_in(state: dict[str, LazyTensor], config: Any, notes: list[str]) -> None:
    """Add constants that some layouts leave out: FIR filters, and noise maps, which are then drawn."""
    _add_filters(state, config.architecture == "resnet")
    rng = torch.Generator().manual_seed(NOISE_SEED)
    drawn = 0
    for r in config.block_resolutions:
        for layer in ("conv0", "conv1") if r > 4 else ("conv1",):
            name = f"synthesis.b{r}.{layer}.noise_const"
            if name not in state:
                state[name] = given(torch.randn(r, config.width(r), generator=rng))
                drawn += 1
    if drawn:
        notes.append(f"The file has no noise for {drawn} layers; seeded noise takes its place.")


def _add_filters(state: dict[str, LazyTensor], resnet: bool) -> None:
    layers = {match[1] for name in state if (match := CONV.fullmatch(name))}
    blocks = {layer.rpartition(".")[0] for layer in layers}
    skips = {f"{block}.skip" for block in blocks if resnet and not block.endswith(".b4")}
    for place in sorted(layers | blocks | skips):
        state.setdefault(f"{place}.resample_filter", given(fir_kernel()))


def _state_dict(value: Any) -> tuple[dict[str, TensorRef], dict[str, Any]]:
    """Tensors by name without the prefix of a wrapper, and the dictionary that they were found in."""
    root = value.items if isinstance(value, Instance) else value
    if not isinstance(root, dict):
        raise RefusedError(f"holds a {_kind(value)} where a generator or a table of tensors belongs")
    inner = root
    for key in GENERATOR_KEYS:
        if isinstance(root.get(key), dict):
            inner = root[key]
            break
    tensors = {name: ref for name, ref in inner.items() if isinstance(name, str) and isinstance(ref, TensorRef)}
    for prefix in PREFIXES:
        if any(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): ref for name, ref in tensors.items() if name.startswith(prefix)}
            break
    if not tensors:
        keys = ", ".join(str(key)[:40] for key in list(root)[:5] if isinstance(key, str)) or "nothing"
        raise RefusedError(f"holds no tensors of a generator (it has {keys})")
    return tensors, root


def _kind(value: Any) -> str:
    return "dict" if isinstance(value, OrderedItems) else type(value).__name__


def _from_safetensors(whole: FileSource) -> Contents:
    tensors, texts = read_safetensors(whole)
    if DELTA_KEY in texts:
        raise RefusedError("is a weight delta: join it with its base by photodrag models convert, which says how")
    header = texts.get(HEADER_KEY)
    stats = {name.removeprefix(STATS_PREFIX): lazy(t) for name, t in tensors.items() if name.startswith(STATS_PREFIX)}
    state = {name: lazy(ref) for name, ref in tensors.items() if not name.startswith(STATS_PREFIX)}
    if header is None:
        return from_value(tensors, "module")
    try:
        fields = json.loads(header)
        extra = fields.pop("extra", {})
        ((family, config),) = fields.items()
        if not isinstance(config, dict) or not isinstance(extra, dict):
            raise TypeError("its parts are no tables")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RefusedError(f"has a generator header that cannot be read ({str(error)[:80]})") from error
    return Contents("safetensors", config, state, family, extra=extra, stats=stats)
