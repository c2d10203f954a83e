"""A training state as one safetensors file: written atomically, read back to the same numbers."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from data.errors import ModelError
from inversion.generators.checkpoint import write_atomically
from inversion.training.step import GanState

HEADER_KEY = "photodrag_training"


def save_state(state: GanState, path: Path) -> None:
    """Write weights, averages, both optimisers and counters."""
    tensors: dict[str, Tensor] = {"spread": state.spread}
    for name, module in _modules(state).items():
        tensors |= {f"{name}/{key}": value for key, value in module.state_dict().items()}
    for name, optimizer in _optimizers(state).items():
        for index, slot in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}/{index}/{key}": torch.as_tensor(value) for key, value in slot.items()}
    counters = json.dumps({"step": state.step, "images": state.images, "resolution": state.generator.resolution})
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(tensors, metadata={HEADER_KEY: counters}))


def load_state(state: GanState, path: Path) -> None:
    """Fill a fresh state of the same shape from a file. Raises ModelError when the file is of another run."""
    with safe_open(str(path), framework="pt") as file:
        counters = json.loads((file.metadata() or {}).get(HEADER_KEY, "{}"))
        if counters.get("resolution") != state.generator.resolution:
            raise ModelError(
                f"{path} holds a training state of {counters.get('resolution')} px, not of "
                f"{state.generator.resolution} px: give another out folder."
            )
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, module in _modules(state).items():
        module.load_state_dict(_under(tensors, name))
    for name, optimizer in _optimizers(state).items():
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in _under(tensors, name).items():
            index, _, field = key.partition("/")
            slots.setdefault(int(index), {})[field] = value
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    state.spread = tensors["spread"].to(state.spread.device)
    state.step, state.images = counters["step"], counters["images"]


def _under(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}/"
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def _modules(state: GanState) -> dict[str, nn.Module]:
    return {"generator": state.generator, "average": state.average, "discriminator": state.discriminator}


def _optimizers(state: GanState) -> dict[str, torch.optim.Adam]:
    return {"opt_generator": state.opt_generator, "opt_discriminator": state.opt_discriminator}
