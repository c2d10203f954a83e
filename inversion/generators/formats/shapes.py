"""A generator's architecture from the names and shapes of its tensors, and from the values it was constructed with."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from inversion.generators.formats.lazy import LazyTensor
from inversion.generators.formats.source import RefusedError, show
from inversion.generators.layers import MAX_WIDTH
from inversion.generators.stylegan2_blocks import Architecture, StyleGAN2Config
from inversion.generators.stylegan3 import StyleGAN3Config

BLOCK = re.compile(r"synthesis\.b(\d{1,5})\.conv1\.weight")
LAYER3 = re.compile(r"synthesis\.L(\d{1,2})_(\d{1,5})_(\d{1,5})\.weight")
CHANNEL_BASES = tuple(sorted({n << i for n in (2, 3) for i in range(3, 18)}, reverse=True))
DENSE = re.compile(r"mapping\.fc(\d{1,2})\.weight")


def stylegan2_config(
    state: Mapping[str, LazyTensor], values: Mapping[str, Any], clamp: float | None
) -> StyleGAN2Config:
    """The StyleGAN2 whose tensors these are; `clamp` is the bound on activations where `values` names none."""
    resolutions = sorted(int(match[1]) for name in state if (match := BLOCK.fullmatch(name)))
    if not resolutions or resolutions != [4 << i for i in range(len(resolutions))]:
        raise RefusedError(f"has StyleGAN2 blocks of {show(resolutions)} px; expected are 4, 8, 16 and so on")
    top = resolutions[-1]
    channels = tuple(_shape(state, f"synthesis.b{r}.conv1.weight", 4)[0] for r in resolutions)
    const = _shape(state, "synthesis.b4.const", 3)
    rgb = _shape(state, f"synthesis.b{top}.torgb.weight", 4)
    base, most = channels[-1] * top, max(channels)
    regular = all(min(base // r, most) == count for r, count in zip(resolutions, channels, strict=True))
    wanted = values.get("conv_clamp", clamp)
    return StyleGAN2Config(
        resolution=top,
        **mapping_values(state, values),
        channel_base=base,
        channel_max=most,
        conv_clamp=None if wanted is None else _number(wanted, "conv_clamp"),
        architecture=_architecture(state),
        img_channels=rgb[0],
        block_channels=() if regular else channels,
        start_width=const[2],
    )


def stylegan3_config(state: Mapping[str, LazyTensor], values: Mapping[str, Any]) -> StyleGAN3Config:
    """The StyleGAN3 (T or R) whose tensors these are; what neither they nor `values` say is as published."""
    layers = {int(match[1]): match for name in state if (match := LAYER3.fullmatch(name))}
    if len(layers) < 3 or sorted(layers) != list(range(len(layers))):
        raise RefusedError("has StyleGAN3 layers that do not follow each other")
    last = len(layers) - 1
    down = state.get(f"{_layer3(layers[0])}.down_filter")
    radial = down is not None and len(down.shape) == 2
    fields: dict[str, Any] = {
        "resolution": int(layers[last][2]),
        **mapping_values(state, values),
        "num_layers": last,
        "conv_kernel": _shape(state, f"{_layer3(layers[0])}.weight", 4)[2],
        "use_radial_filters": radial,
        "img_channels": int(layers[last][3]),
        "channel_max": max(int(match[3]) for i, match in layers.items() if i != last),
    }
    known = {field.name for field in dataclasses.fields(StyleGAN3Config)} - fields.keys()
    fields |= {name: value for name, value in values.items() if name in known or name == "channel_max"}
    wanted = [match[0].removeprefix("synthesis.").removesuffix(".weight") for _, match in sorted(layers.items())]
    if "channel_base" in fields:
        return StyleGAN3Config(**fields)
    for base in (base for base in CHANNEL_BASES if base <= MAX_WIDTH * fields["resolution"]):
        config = StyleGAN3Config(**fields, channel_base=base)
        if [layer.name for layer in config.layers()] == wanted:
            return config
    raise RefusedError(f"has StyleGAN3 layers of unknown widths ({wanted[1]} ...)")


def _layer3(match: re.Match[str]) -> str:
    return match[0].removesuffix(".weight")


def mapping_values(state: Mapping[str, LazyTensor], values: Mapping[str, Any]) -> dict[str, Any]:
    """The config values that describe the mapping network."""
    layers = sorted(int(match[1]) for name in state if (match := DENSE.fullmatch(name)))
    if not layers or layers != list(range(len(layers))):
        raise RefusedError("has a mapping network without all of its layers fc0, fc1 and so on")
    first, last = _shape(state, "mapping.fc0.weight", 2), _shape(state, f"mapping.fc{layers[-1]}.weight", 2)
    embed = _shape(state, "mapping.embed.weight", 2) if "mapping.embed.weight" in state else (0, 0)
    activation = values.get("activation", "lrelu")
    if activation != "lrelu":
        raise RefusedError(f"uses the activation {show(activation)}; only lrelu is known")
    return {
        "z_dim": first[1] - embed[0],
        "w_dim": last[0],
        "c_dim": embed[1],
        "mapping_layers": len(layers),
        "mapping_lr_multiplier": _number(
            values.get("lr_multiplier", values.get("mapping_lrmul", 0.01)), "lr_multiplier"
        ),
    }


def _architecture(state: Mapping[str, LazyTensor]) -> Architecture:
    if "synthesis.b4.torgb.weight" in state:
        return "skip"
    return "resnet" if "synthesis.b8.skip.weight" in state else "orig"


def _shape(state: Mapping[str, LazyTensor], name: str, dimensions: int) -> tuple[int, ...]:
    if name not in state:
        raise RefusedError(f"is a StyleGAN without {name}")
    shape = state[name].shape
    if len(shape) != dimensions:
        raise RefusedError(f"has a {name} of shape {show(shape)}; it must have {dimensions} dimensions")
    return shape


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
        raise RefusedError(f"was built with {name}={show(value)}; it must be a positive number")
    return float(value)
