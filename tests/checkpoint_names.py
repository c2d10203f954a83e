"""State dicts under the names and layouts of other implementations, written for the tests from the formats' facts."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inversion.generators.stylegan2 import StyleGAN2Config

NESTED = ("channel_base", "channel_max", "num_fp16_res", "conv_clamp", "architecture")
TENSORFLOW_SCOPES = {"conv0": "Conv0_up", "conv1": "Conv1", "torgb": "ToRGB", "skip": "Skip"}
FLIPPED = ("conv0", "skip")
BLOCK = re.compile(r"synthesis\.b(\d+)\.(.+)")


def constructor_kwargs(config: StyleGAN2Config) -> dict[str, Any]:
    """What the published StyleGAN2 constructor of the stylegan3 repository takes for this architecture."""
    kwargs = {"z_dim": config.z_dim, "c_dim": config.c_dim, "w_dim": config.w_dim}
    kwargs |= {"img_resolution": config.resolution, "img_channels": config.img_channels}
    kwargs |= {"mapping_kwargs": {"num_layers": config.mapping_layers}, "channel_base": config.channel_base}
    kwargs |= {"channel_max": config.channel_max, "num_fp16_res": 0, "conv_clamp": config.conv_clamp}
    return kwargs if config.architecture == "skip" else kwargs | {"architecture": config.architecture}


def nested_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The same arguments as stylegan2-ada-pytorch groups them: those of the synthesis network in `synthesis_kwargs`."""
    outer = {name: value for name, value in kwargs.items() if name not in NESTED}
    return outer | {"synthesis_kwargs": {name: kwargs[name] for name in NESTED if name in kwargs}}


def tensorflow_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The same arguments under the names of the TensorFlow release."""
    static = {"latent_size": kwargs["z_dim"], "label_size": kwargs["c_dim"], "dlatent_size": kwargs["w_dim"]}
    static |= {"resolution": kwargs["img_resolution"], "num_channels": kwargs["img_channels"]}
    static |= {"mapping_layers": kwargs["mapping_kwargs"].get("num_layers", 8), "mapping_lrmul": 0.01}
    static |= {"fmap_base": kwargs["channel_base"] // 2, "fmap_max": kwargs["channel_max"]}
    static |= {"architecture": kwargs.get("architecture", "skip"), "resample_kernel": [1, 3, 3, 1]}
    return static if kwargs.get("conv_clamp") is None else static | {"conv_clamp": kwargs["conv_clamp"]}


def tensorflow_variables(
    state: dict[str, Tensor], label_scope: str = "LabelEmbed"
) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Variables of the TensorFlow networks by network: "" (the whole generator), "mapping" and "synthesis"."""
    found: dict[str, list[tuple[str, np.ndarray]]] = {"": [], "mapping": [], "synthesis": []}
    found[""].append(("lod", np.array(0.0, dtype=np.float32)))
    for name, tensor in state.items():
        value = tensor.detach().cpu().numpy()
        block = BLOCK.fullmatch(name)
        if name == "mapping.w_avg":
            found[""].append(("dlatent_avg", value.copy()))
        elif block is None:
            entry = _mapping_variable(name, value, label_scope)
            found["mapping"] += [] if entry is None else [entry]
        elif not name.endswith("resample_filter"):
            key, array = _synthesis_variable(int(block[1]), block[2], value)
            found["synthesis"].append((key, np.array(array, order="C")))
    return found


def _mapping_variable(name: str, value: np.ndarray, label_scope: str) -> tuple[str, np.ndarray] | None:
    layer, kind = name.removeprefix("mapping.").split(".")
    scope = label_scope if layer == "embed" else f"Dense{layer.removeprefix('fc')}"
    if scope == "LabelConcat" and kind == "bias":
        return None
    return f"{scope}/{kind}", np.array(value.T, order="C")


def _synthesis_variable(resolution: int, rest: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    if rest == "const":
        return "4x4/Const/const", value[None]
    layer, kind = rest.split(".", 1)
    if kind == "noise_const":
        return f"noise{2 * int(math.log2(resolution)) - (5 if layer == 'conv0' else 4)}", value[None, None]
    scope = "Conv" if resolution == 4 and layer == "conv1" else TENSORFLOW_SCOPES[layer]
    scope = f"{resolution}x{resolution}/{scope}"
    if kind == "weight":
        kernel = value.transpose(2, 3, 1, 0)
        return f"{scope}/weight", kernel[::-1, ::-1] if layer in FLIPPED else kernel
    if kind == "affine.weight":
        return f"{scope}/mod_weight", value.T
    return (f"{scope}/mod_bias", value - 1) if kind == "affine.bias" else (f"{scope}/{kind}", value)


def rosinality_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of an unconditional skip generator under rosinality's names (without `latent_avg`)."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        block = BLOCK.fullmatch(name)
        if block is not None:
            found |= _rosinality_block(int(block[1]), block[2], value)
        elif name != "mapping.w_avg":
            layer, kind = name.removeprefix("mapping.fc").split(".")
            found[f"style.{int(layer) + 1}.{kind}"] = value
    return {name: value.detach().clone().contiguous() for name, value in found.items()}


def _rosinality_block(resolution: int, rest: str, value: Tensor) -> dict[str, Tensor]:
    """One tensor of a synthesis block: none, one or two tensors there."""
    level = int(math.log2(resolution)) - 3  # -1 for the 4 px block, whose layers stand outside the lists
    if rest == "const":
        return {"input.input": value[None]}
    if rest == "resample_filter":  # kernels that upsample by two carry the gain of 4
        names = {f"convs.{2 * level}.conv.blur.kernel", f"to_rgbs.{level}.upsample.kernel"}
        return {} if level < 0 else dict.fromkeys(sorted(names), value * 4)
    layer, kind = rest.split(".", 1)
    if layer == "torgb":
        layer_name = "to_rgb1" if level < 0 else f"to_rgbs.{level}"
        if kind == "bias":
            return {f"{layer_name}.bias": value[None, :, None, None]}
    else:
        index = 2 * level + (layer == "conv1")
        layer_name = "conv1" if level < 0 else f"convs.{index}"
        if kind == "bias":
            return {f"{layer_name}.activate.bias": value}
        if kind == "noise_const":
            return {f"noises.noise_{index + 1}": value[None, None]}
        if kind == "noise_strength":
            return {f"{layer_name}.noise.weight": value.reshape(1)}
        if kind == "resample_filter":
            return {}
    if kind == "weight":
        return {f"{layer_name}.conv.weight": value[None]}
    return {f"{layer_name}.conv.modulation.{kind.removeprefix('affine.')}": value}


def state_with_metadata(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict as `nn.Module.state_dict()` gives it: an OrderedDict with the attribute `_metadata`."""
    module = torch.nn.Module().state_dict()
    module.update((name, value.detach()) for name, value in state.items())
    module._metadata["synthesis"] = {"version": 1}
    return module
