"""Networks that the TensorFlow version of StyleGAN2 pickled: variables by name, rearranged to the PyTorch layout."""

from __future__ import annotations

import re
from typing import Any

from inversion.generators.formats.builders import array_ref
from inversion.generators.formats.inert import Instance
from inversion.generators.formats.lazy import LazyTensor, lazy
from inversion.generators.formats.nvidia import plain_dict
from inversion.generators.formats.source import RefusedError, TensorRef

STYLE_PART = r"(weight|bias|mod_weight|mod_bias|noise_strength)"
LAYER = re.compile(rf"(\d+)x\1/(Conv|Conv0_up|Conv1|ToRGB)/{STYLE_PART}")
LAYER_NAMES = {"Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1", "ToRGB": "torgb"}
PART_NAMES = {"mod_weight": "affine.weight", "mod_bias": "affine.bias"}
NOISE = re.compile(r"noise(\d{1,2})")
DENSE = re.compile(r"Dense(\d{1,2})/(weight|bias)")
SKIP = re.compile(r"(\d+)x\1/Skip/weight")


def is_tensorflow(value: Any) -> bool:
    """Whether a pickle holds networks of the TensorFlow version."""
    parts = value if isinstance(value, tuple) else (value,)
    return any(isinstance(part, Instance) and part.cls.module.startswith("dnnlib.tflib") for part in parts)


def tensorflow_state(value: Any) -> tuple[dict[str, LazyTensor], dict[str, Any]]:
    """The averaged generator's tensors under PyTorch's names, and its constructor values."""
    network = value[-1] if isinstance(value, tuple) else value
    state = plain_dict(getattr(network, "state", None))
    parts = plain_dict(state.get("components"))
    state_dict: dict[str, LazyTensor] = {}
    for name, ref in _variables(network):
        if name == "dlatent_avg":
            state_dict["mapping.w_avg"] = lazy(ref)
    for part, place in (("mapping", _mapping_entry), ("synthesis", _synthesis_entry)):
        if part not in parts:
            raise RefusedError(f"is a TensorFlow network without a part '{part}'; only StyleGAN2 generators are read")
        for name, ref in _variables(parts[part]):
            entry = place(name, ref)
            if entry is not None:
                state_dict[entry[0]] = entry[1]
    return state_dict, plain_dict(state.get("static_kwargs"))


def _variables(network: Any) -> list[tuple[str, TensorRef]]:
    rows = plain_dict(getattr(network, "state", None)).get("variables")
    if not isinstance(rows, (list, tuple)) or len(rows) > 10_000:
        raise RefusedError("has a TensorFlow network without variables")
    found = []
    for row in rows:
        if not isinstance(row, (list, tuple)) or len(row) != 2 or not isinstance(row[0], str):
            raise RefusedError("has a TensorFlow variable without a name")
        found.append((row[0], array_ref(row[1])))
    return found


def _mapping_entry(name: str, ref: TensorRef) -> tuple[str, LazyTensor] | None:
    if match := DENSE.fullmatch(name):
        place = f"mapping.fc{match[1]}.{match[2]}"
    elif name in ("LabelEmbed/weight", "LabelEmbed/bias"):
        place = f"mapping.embed.{name.split('/')[1]}"
    elif name == "LabelConcat/weight":
        raise RefusedError("is a conditional TensorFlow StyleGAN2 of the first kind, whose labels are mixed otherwise")
    elif not ref.shape:
        return None  # a counter of the training
    else:
        raise RefusedError(f"has the TensorFlow variable {name[:60]}, which no StyleGAN2 mapping network has")
    return place, _transposed(ref) if place.endswith("weight") else lazy(ref)


def _synthesis_entry(name: str, ref: TensorRef) -> tuple[str, LazyTensor] | None:
    if name == "4x4/Const/const":
        return "synthesis.b4.const", lazy(ref, ref.shape[1:])
    if match := NOISE.fullmatch(name):
        index = int(match[1])
        height = 2 ** ((index + 1) // 2 + 2)
        layer = "conv1" if index % 2 == 0 else "conv0"
        return f"synthesis.b{height}.{layer}.noise_const", lazy(ref, ref.shape[-2:])
    if match := SKIP.fullmatch(name):
        return f"synthesis.b{match[1]}.skip.weight", _kernel(ref, flip=True)
    if match := LAYER.fullmatch(name):
        height, layer, part = match[1], match[2], match[3]
        place = f"synthesis.b{height}.{LAYER_NAMES[layer]}.{PART_NAMES.get(part, part)}"
        if part == "weight":
            return place, _kernel(ref, flip=layer == "Conv0_up")
        if part == "mod_weight":
            return place, _transposed(ref)
        return place, lazy(ref, change=lambda x: x + 1) if part == "mod_bias" else lazy(ref)
    if not ref.shape:
        return None  # lod and other counters of the training
    raise RefusedError(f"has the TensorFlow variable {name[:60]}, which no StyleGAN2 synthesis network has")


def _transposed(ref: TensorRef) -> LazyTensor:
    if len(ref.shape) != 2:
        raise RefusedError("has a dense TensorFlow weight that is no matrix")
    return lazy(ref, (ref.shape[1], ref.shape[0]), lambda x: x.t())


def _kernel(ref: TensorRef, flip: bool) -> LazyTensor:
    if len(ref.shape) != 4:
        raise RefusedError("has a TensorFlow convolution that is no kernel")
    height, width, inputs, outputs = ref.shape
    return lazy(ref, (outputs, inputs, height, width), lambda x: (x.flip(0, 1) if flip else x).permute(3, 2, 0, 1))
