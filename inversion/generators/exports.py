"""Ways out: rosinality's .pt, and what tuning changed as a small file beside its base."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from data.errors import ModelError
from data.files import fill_atomically
from inversion.generators.formats.lazy import LazyState, lazy
from inversion.generators.formats.reading import DELTA_KEY
from inversion.generators.formats.rosinality import rosinality_state
from inversion.generators.formats.safetensors_file import read_safetensors
from inversion.generators.formats.source import FileSource, RefusedError
from inversion.generators.stylegan2 import StyleGAN2Config
from inversion.generators.weights import Factors, expand, named_factors

DELTA_PREFIX = "delta."
NOISE_PREFIX = "noise."
ROSINALITY_LR_MULTIPLIER = 0.01


@dataclass(frozen=True, eq=False, slots=True)
class WeightDelta:
    """What tuning added to a generator's weights, as factors, and the noise maps of the inversion, by layer."""

    base_sha256: str
    factors: Factors
    noise: dict[str, Tensor]
    extra: dict[str, Any]


def write_rosinality(path: Path, config: Any, state: Mapping[str, Tensor]) -> None:
    """Write {'g_ema', 'latent_avg'} as rosinality's stylegan2-pytorch reads it, float32.

    Raises ModelError for a generator that this layout cannot hold: it has skip connections, no labels, z as wide as w,
    square pictures and the published mapping network.
    """
    lacks = rosinality_lacks(config)
    if lacks:
        raise ModelError(f"rosinality's layout cannot hold this generator: it has {lacks}. Write .safetensors instead.")
    kept = rosinality_state(state, config.block_resolutions)
    contents = {"g_ema": kept, "latent_avg": state["mapping.w_avg"].detach().cpu().float().contiguous()}
    fill_atomically(path, lambda name: torch.save(contents, name))


def rosinality_lacks(config: Any) -> str:
    """What this generator has and rosinality's layout does not; empty when it fits."""
    if not isinstance(config, StyleGAN2Config):
        return "another architecture than StyleGAN2"
    if config.architecture != "skip":
        return f"the {config.architecture} architecture"
    if config.c_dim:
        return "labels"
    if config.z_dim != config.w_dim:
        return f"z of {config.z_dim} and w of {config.w_dim} numbers"
    if config.mapping_lr_multiplier != ROSINALITY_LR_MULTIPLIER:
        return f"a mapping network with lr_multiplier {config.mapping_lr_multiplier:g}"
    if config.start_width != 4 or config.img_channels != 3:
        return "pictures that are not square or not RGB"
    return ""


def write_delta(path: Path, delta: WeightDelta) -> None:
    """Write a weight delta atomically; it is of use only with its base."""
    header = {"base_sha256": delta.base_sha256, "extra": delta.extra}
    tensors = {DELTA_PREFIX + name: value.detach().cpu().contiguous() for name, value in delta.factors.items()}
    tensors |= {NOISE_PREFIX + name: value.detach().cpu().contiguous() for name, value in delta.noise.items()}
    fill_atomically(path, lambda name: save_file(tensors, name, metadata={DELTA_KEY: json.dumps(header)}))


def read_delta(path: Path) -> WeightDelta | None:
    """The weight delta in a file, or None when it is something else; ModelError when it is damaged."""
    with path.open("rb") as file:
        source = FileSource(file, 0, file.seek(0, 2))
        try:
            tensors, texts = read_safetensors(source)
        except RefusedError:
            return None
        if DELTA_KEY not in texts:
            return None
        try:
            header = json.loads(texts[DELTA_KEY])
            base, extra = str(header["base_sha256"]), dict(header["extra"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ModelError(f"The weight delta {path} has a header that cannot be read.") from error
        state: LazyState = {name: lazy(ref) for name, ref in tensors.items()}
        parts: dict[str, dict[str, Tensor]] = {
            prefix: {name[len(prefix) :]: value.read() for name, value in state.items() if name.startswith(prefix)}
            for prefix in (DELTA_PREFIX, NOISE_PREFIX)
        }
    return WeightDelta(base, named_factors(parts[DELTA_PREFIX]), parts[NOISE_PREFIX], extra)


def tuned_state(base: Mapping[str, Tensor], delta: WeightDelta) -> dict[str, Tensor]:
    """The state dict of base and delta together, float32; ModelError when they do not fit."""
    state = {name: value.float() for name, value in base.items()}
    for name, change in expand(delta.factors, {name: value.shape for name, value in state.items()}).items():
        state[name] = state[name] + change
    for layer, noise in delta.noise.items():
        name = f"synthesis.{layer}.noise_const"
        if name not in state or state[name].shape != noise.shape:
            raise ModelError(f"The weight delta does not fit this generator: {name[:80]} has no place in it.")
        state[name] = noise.float()
    return state
