"""A training state in a folder: safetensors parts and an index that names them, read back to the same numbers.

The index `state.json` is replaced after its parts are written and before older ones are deleted, so a kill at any
moment leaves a state that can be read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from data.errors import ModelError, UsageError
from data.files import write_atomically
from inversion.training.step import GanState

INDEX_NAME = "state.json"
LAYOUT = 2
"""Version of the index; 1 was a single file named `EARLIER_NAME`."""
EARLIER_NAME = "state.safetensors"
PART_NAME = re.compile(r"state-\d+-\d+of\d+\.safetensors")
HEADER_BYTES = 1024
ENTRY_BYTES = 160
"""What a safetensors file holds at most besides the numbers: once, and for each tensor besides its name."""


def save_state(state: GanState, folder: Path, recipe: dict[str, object], file_mb: int = 0) -> None:
    """Write weights, averages, both optimisers and counters as parts below `file_mb` million bytes (0: one part).

    `recipe` (JSON values: seed, settings) is kept in the index. Raises UsageError as `check_part_size` does.
    """
    check_part_size(state, file_mb)
    parts = _split(_tensors(state), file_mb)
    names = [f"state-{state.step:08d}-{i}of{len(parts)}.safetensors" for i in range(1, len(parts) + 1)]
    for name, part in zip(names, parts, strict=True):
        write_atomically(folder / name, save({key: value.cpu().contiguous() for key, value in part.items()}))
    counters = {"step": state.step, "images": state.images, "resolution": state.generator.resolution}
    index = {"layout": LAYOUT, "parts": names, **counters, **recipe}
    write_atomically(folder / INDEX_NAME, json.dumps(index, indent=1).encode())
    _delete_others(folder, names)


def load_state(state: GanState, folder: Path) -> bool:
    """Fill a fresh state of the same shape from a folder; False when it holds none.

    Raises ModelError, and leaves the state alone, when the folder's one is damaged, of another architecture or version.
    """
    if not (folder / INDEX_NAME).is_file():
        if (folder / EARLIER_NAME).is_file():
            raise ModelError(f"{folder} holds a training state of an earlier version: give another out folder.")
        return False
    index, tensors = _read(folder)
    if index["resolution"] != state.generator.resolution:
        raise ModelError(
            f"{folder} holds a training state of {index['resolution']} px, not of "
            f"{state.generator.resolution} px: give another out folder."
        )
    if misfit := _misfit(state, tensors):
        raise ModelError(
            f"{folder} holds the training state of another architecture or version ({misfit}): give another out folder."
        )
    for name, module in _modules(state).items():
        module.load_state_dict(_under(tensors, name))
    for name, optimizer in _optimizers(state).items():
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in _under(tensors, name).items():
            index_text, _, field = key.partition("/")
            slots.setdefault(int(index_text), {})[field] = value
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    state.spread = tensors["spread"].to(state.spread.device)
    state.step, state.images = index["step"], index["images"]
    return True


def check_part_size(state: GanState, file_mb: int) -> None:
    """Raise UsageError when one tensor of the state does not fit into a file below `file_mb` million bytes."""
    name, largest = max(_tensors(state).items(), key=lambda item: _size(*item))
    needed = _size(name, largest) + HEADER_BYTES
    if file_mb and needed >= file_mb * 10**6:
        raise UsageError(
            f"file_mb is {file_mb}: allowed are 0 and whole numbers from {needed // 10**6 + 1}, because {name} alone "
            f"takes {needed / 1e6:.1f} MB"
        )


def _tensors(state: GanState) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {"spread": state.spread}
    for name, module in _modules(state).items():
        tensors |= {f"{name}/{key}": value for key, value in module.state_dict().items()}
    for name, optimizer in _optimizers(state).items():
        for index, slot in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}/{index}/{key}": torch.as_tensor(value) for key, value in slot.items()}
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _size(name: str, tensor: Tensor) -> int:
    """Bytes that a tensor takes in a file, rounded up."""
    return tensor.numel() * tensor.element_size() + len(name.encode()) + ENTRY_BYTES


def _split(tensors: dict[str, Tensor], file_mb: int) -> list[dict[str, Tensor]]:
    """The tensors in order, a new part begun where the next one would not stay below `file_mb` million bytes."""
    parts: list[dict[str, Tensor]] = [{}]
    filled = HEADER_BYTES
    for name, tensor in tensors.items():
        size = _size(name, tensor)
        if file_mb and parts[-1] and filled + size >= file_mb * 10**6:
            parts.append({})
            filled = HEADER_BYTES
        parts[-1][name] = tensor
        filled += size
    return parts


def _delete_others(folder: Path, names: Iterable[str]) -> None:
    """Delete parts that are not among `names`, and what an interrupted save has left."""
    kept = set(names)
    for path in folder.iterdir():
        old = PART_NAME.fullmatch(path.name) and path.name not in kept
        if old or path.name.startswith((".state-", f".{INDEX_NAME}.")):
            path.unlink(missing_ok=True)


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The index of a folder and the tensors of its parts; ModelError when they are damaged or of another layout."""
    tensors: dict[str, Tensor] = {}
    try:
        index = json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))
        if index["layout"] != LAYOUT:
            raise ModelError(
                f"{folder} holds a training state of another version (layout {index['layout']}): "
                "give another out folder."
            )
        counters = {name: int(index[name]) for name in ("step", "images", "resolution")}
        for name in index["parts"]:
            tensors |= load_file(folder / Path(name).name)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        text = " ".join(str(error).split())
        raise ModelError(f"{folder} holds a damaged training state ({text}): give another out folder.") from error
    return counters, tensors


def _misfit(state: GanState, tensors: dict[str, Tensor]) -> str:
    """The first way in which tensors do not belong to a state of this shape, '' when they do."""
    shapes = {f"{n}/{key}": v.shape for n, m in _modules(state).items() for key, v in m.state_dict().items()}
    for name, optimizer in _optimizers(state).items():
        for index, parameter in enumerate(optimizer.param_groups[0]["params"]):
            if any(key.startswith(f"{name}/{index}/") for key in tensors):
                slot = {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
                shapes |= {f"{name}/{index}/{key}": shape for key, shape in slot.items()}
    for key, shape in shapes.items():
        if key not in tensors:
            return f"it has no {key}"
        if tensors[key].shape != shape:
            return f"{key} is {list(tensors[key].shape)}, not {list(shape)}"
    unknown = sorted(tensors.keys() - shapes.keys() - {"spread"})
    if "spread" not in tensors:
        return "it has no spread"
    return f"it has {unknown[0]}" if unknown else ""


def _under(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}/"
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def _modules(state: GanState) -> dict[str, nn.Module]:
    return {"generator": state.generator, "average": state.average, "discriminator": state.discriminator}


def _optimizers(state: GanState) -> dict[str, torch.optim.Adam]:
    return {"opt_generator": state.opt_generator, "opt_discriminator": state.opt_discriminator}
