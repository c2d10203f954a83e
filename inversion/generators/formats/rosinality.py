"""The layout of rosinality's stylegan2-pytorch (also inside e4e and pSp): to the published names and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from inversion.generators.formats.lazy import LazyTensor, lazy
from inversion.generators.formats.source import RefusedError, TensorRef

STYLE = re.compile(r"style\.(\d{1,2})\.(weight|bias)")
FIRST = re.compile(r"(conv1|to_rgb1)\.(.+)")
LATER = re.compile(r"(convs|to_rgbs)\.(\d{1,2})\.(.+)")
NOISE = re.compile(r"noises\.noise_(\d{1,2})")
CONV_PARTS = {
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
    "noise.weight": "noise_strength",
    "activate.bias": "bias",
    "bias": "bias",
    "conv.blur.kernel": "resample_filter",
    "upsample.kernel": "resample_filter",
}
UP_GAIN = 4.0
"""What rosinality multiplies its up-sampling kernels by; the published layout keeps them of sum 1."""


def is_rosinality(names: Mapping[str, Any]) -> bool:
    """Whether a state dict has this layout."""
    return "input.input" in names and "conv1.conv.weight" in names


def published_state(tensors: Mapping[str, TensorRef], latent_avg: TensorRef | None) -> dict[str, LazyTensor]:
    """The tensors under the published names; noise maps and filters that the file lacks are left out."""
    found: dict[str, LazyTensor] = {}
    for name, ref in tensors.items():
        entry = _published_entry(name, ref)
        if entry is not None:
            found[entry[0]] = entry[1]
    if latent_avg is not None:
        found["mapping.w_avg"] = lazy(latent_avg, latent_avg.shape[-1:], _mean_latent)
    return found


def _mean_latent(latents: Tensor) -> Tensor:
    return latents.reshape(-1, latents.shape[-1])[0]


def _published_entry(name: str, ref: TensorRef) -> tuple[str, LazyTensor] | None:
    if match := STYLE.fullmatch(name):
        return f"mapping.fc{int(match[1]) - 1}.{match[2]}", lazy(ref)
    if name == "input.input":
        return "synthesis.b4.const", lazy(ref, ref.shape[1:])
    if match := NOISE.fullmatch(name):
        return f"{_conv_name(int(match[1]))}.noise_const", lazy(ref, ref.shape[-2:])
    if match := FIRST.fullmatch(name):
        layer = "synthesis.b4.conv1" if match[1] == "conv1" else "synthesis.b4.torgb"
        return _layer_entry(layer, match[2], ref)
    if match := LATER.fullmatch(name):
        index = int(match[2])
        if match[1] == "to_rgbs":
            layer = f"synthesis.b{8 << index}" + ("" if match[3] == "upsample.kernel" else ".torgb")
            return _layer_entry(layer, match[3], ref)
        return _layer_entry(_conv_name(index + 1), match[3], ref)
    raise RefusedError(f"has the tensor {name[:60]}, which rosinality's generators do not have")


def _conv_name(index: int) -> str:
    """The layer that draws with noise map `index`: one at 4 px, then two a resolution."""
    return f"synthesis.b{4 << ((index + 1) // 2)}.{'conv0' if index % 2 else 'conv1'}"


def _layer_entry(layer: str, part: str, ref: TensorRef) -> tuple[str, LazyTensor]:
    if part not in CONV_PARTS:
        raise RefusedError(f"has the part {part[:60]}, which rosinality's layers do not have")
    name = f"{layer}.{CONV_PARTS[part]}"
    if part == "conv.weight":
        return name, lazy(ref, ref.shape[1:])
    if part in ("conv.blur.kernel", "upsample.kernel"):
        return name, lazy(ref, change=lambda x: x / UP_GAIN)
    if part == "conv.modulation.weight":
        return name, lazy(ref)
    return name, lazy(ref, () if part == "noise.weight" else (ref.numel,))


def rosinality_state(state: Mapping[str, Tensor], resolutions: list[int]) -> dict[str, Tensor]:
    """A published state dict (skip architecture, no labels) in rosinality's layout; the inverse of `published_state`.

    Values are only moved and multiplied by 4 (exact in floating point), so the way back is bit-equal.
    """
    found: dict[str, Tensor] = {}
    layers = sum(1 for name in state if re.fullmatch(r"mapping\.fc\d+\.weight", name))
    for i in range(layers):
        found |= {f"style.{i + 1}.{part}": state[f"mapping.fc{i}.{part}"] for part in ("weight", "bias")}
    found["input.input"] = state["synthesis.b4.const"][None]
    for index in range(2 * len(resolutions) - 1):
        layer, own = _conv_name(index), "conv1" if index == 0 else f"convs.{index - 1}"
        found[f"{own}.conv.weight"] = state[f"{layer}.weight"][None]
        if layer.endswith("conv0"):
            found[f"{own}.conv.blur.kernel"] = state[f"{layer}.resample_filter"] * UP_GAIN
        found |= _affine(state, layer, own)
        found[f"{own}.noise.weight"] = state[f"{layer}.noise_strength"].reshape(1)
        found[f"{own}.activate.bias"] = state[f"{layer}.bias"]
        found[f"noises.noise_{index}"] = state[f"{layer}.noise_const"][None, None]
    for index, r in enumerate(resolutions):
        layer, own = f"synthesis.b{r}.torgb", "to_rgb1" if index == 0 else f"to_rgbs.{index - 1}"
        found[f"{own}.bias"] = state[f"{layer}.bias"].reshape(1, -1, 1, 1)
        if index:
            found[f"{own}.upsample.kernel"] = state[f"synthesis.b{r}.resample_filter"] * UP_GAIN
        found[f"{own}.conv.weight"] = state[f"{layer}.weight"][None]
        found |= _affine(state, layer, own)
    return {name: value.detach().cpu().contiguous().to(torch.float32) for name, value in found.items()}


def _affine(state: Mapping[str, Tensor], layer: str, own: str) -> dict[str, Tensor]:
    return {f"{own}.conv.modulation.{part}": state[f"{layer}.affine.{part}"] for part in ("weight", "bias")}
