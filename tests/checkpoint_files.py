"""Writers of generator files with the exact byte structure of the published ones, from weights under NVIDIA's names.

A file that is read back rightly from here is read back rightly when NVIDIA's, PTI's or rosinality's own scripts wrote
it: the names, the nesting and the streams inside streams are theirs. Nothing else is (see tests/checkpoint_objects.py).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.checkpoint_names import (
    constructor_kwargs,
    nested_kwargs,
    rosinality_state,
    state_with_metadata,
    tensorflow_kwargs,
    tensorflow_variables,
)
from tests.checkpoint_objects import SOURCE, EasyDict, Network, Persistent, dump, persistent_module, torch_dump
from tests.tiny import tiny_generator

Weights = dict[str, Tensor]


def small_weights(
    resolution: int = 8, channels: int = 4, w_dim: int = 8, c_dim: int = 0, architecture: str = "skip"
) -> tuple[Weights, dict[str, Any]]:
    """Weights and constructor arguments of a generator that is small on disk."""
    generator = tiny_generator(resolution, channels, w_dim, c_dim=c_dim, architecture=architecture)
    state = {name: value.detach().clone() for name, value in generator.state_dict().items()}
    return state, constructor_kwargs(generator.config)


def _easy(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments with their inner dictionaries as EasyDict, as training scripts pass them."""
    return {name: EasyDict(value) if isinstance(value, dict) else value for name, value in kwargs.items()}


def _other(state: dict[str, Any]) -> dict[str, Any]:
    """The weights of the training generator: other numbers than those of the averaged one."""
    return {name: value + 1.0 if isinstance(value, Tensor) else value for name, value in state.items()}


def _discriminator(kwargs: dict[str, Any], source: str, numbers: int) -> Persistent:
    size = kwargs["img_resolution"]
    state = {f"b{size}.fromrgb.weight": torch.full((4, 3, 1, 1), 0.5), f"b{size}.fromrgb.bias": torch.zeros(4)}
    state |= {"b4.fc.weight": torch.full((1, numbers), 0.5)} if numbers else {}
    state |= {f"b{size}.resample_filter": torch.ones(4, 4) / 16, "b4.out.weight": torch.ones(1, 4)}
    own = {"c_dim": kwargs["c_dim"], "img_resolution": size, "img_channels": kwargs["img_channels"]}
    return persistent_module(state, own, "Discriminator", source)


def nvidia_object(
    state: dict[str, Any],
    kwargs: dict[str, Any],
    class_name: str,
    whole: bool,
    nested: bool,
    source: str,
    discriminator_numbers: int = 0,
) -> Any:
    """What `nvidia_pickle` pickles: the averaged generator, alone or in a training snapshot."""
    own = _easy(nested_kwargs(kwargs) if nested else kwargs)
    averaged = persistent_module(state, own, class_name, source)
    if not whole:
        return averaged
    augment = persistent_module({"p": torch.tensor(0.25), "Hz_geom": torch.ones(6)}, {}, "AugmentPipe", source)
    data_kwargs = EasyDict(class_name="training.dataset.ImageFolderDataset", path="~/datasets/faces.zip")
    data_kwargs |= {"use_labels": False, "max_size": np.int64(70000), "xflip": True}
    data_kwargs |= {"mean": np.array([0.5, 0.4, 0.3], dtype=np.float32), "std": np.float32(0.25)}
    return {
        "G": persistent_module(_other(state), own, class_name, source),
        "D": _discriminator(kwargs, source, discriminator_numbers),
        "G_ema": averaged,
        "augment_pipe": augment,
        "training_set_kwargs": data_kwargs,
    }


def nvidia_pickle(
    path: Path,
    state: dict[str, Any],
    kwargs: dict[str, Any],
    *,
    class_name: str = "Generator",
    protocol: int = 4,
    whole: bool = True,
    numpy_path: str = "numpy.core",
    nested: bool = False,
    source: str = SOURCE,
    discriminator_numbers: int = 0,
) -> None:
    """A .pkl of stylegan2-ada-pytorch (`nested`) or stylegan3: a training snapshot (`whole`) or the bare generator.

    `protocol` 2, 3 or 4; `numpy_path` "numpy.core" or "numpy._core". Values of `state` that are no tensors are pickled
    as they are.
    """
    with path.open("wb") as file:
        network = nvidia_object(state, kwargs, class_name, whole, nested, source, discriminator_numbers)
        dump(network, file, protocol, numpy_path)


def module_pt(
    path: Path,
    state: dict[str, Any],
    kwargs: dict[str, Any],
    *,
    zip: bool = True,
    class_name: str = "Generator",
    numpy_path: str = "numpy._core",
    nested: bool = True,
    source: str = SOURCE,
) -> None:
    """A .pt of PTI: `torch.save` of the whole generator, as the new archive or the old stream."""
    with path.open("wb") as file:
        torch_dump(nvidia_object(state, kwargs, class_name, False, nested, source), file, zip, numpy_path)


def _network(name: str, function: str, variables: list, static: dict[str, Any], version: int, **parts: Network) -> Any:
    state = {"version": version, "name": name, "static_kwargs": dict(static), "components": parts}
    return Network(state | {"build_module_src": SOURCE, "build_func_name": function, "variables": variables})


def _tensorflow_generator(name: str, state: Weights, kwargs: dict[str, Any], label_scope: str, version: int) -> Network:
    variables, static = tensorflow_variables(state, label_scope), tensorflow_kwargs(kwargs)
    mapping = _network("G_mapping", "G_mapping", variables["mapping"], static, version)
    synthesis = _network("G_synthesis", "G_synthesis_stylegan2", variables["synthesis"], static, version)
    return _network(name, "G_main", variables[""], static, version, synthesis=synthesis, mapping=mapping)


def tensorflow_pickle(
    path: Path,
    state: Weights,
    kwargs: dict[str, Any],
    *,
    protocol: int = 4,
    numpy_path: str = "numpy.core",
    label_scope: str = "LabelEmbed",
    version: int = 4,
) -> None:
    """A .pkl of StyleGAN2's TensorFlow release: (G, D, Gs), Gs being the averaged generator.

    `label_scope` "LabelEmbed" (stylegan2-ada) or "LabelConcat" (stylegan2, which has no bias there).
    """
    size = kwargs["img_resolution"]
    from_rgb = (f"{size}x{size}/FromRGB/weight", np.full((1, 1, 3, 4), 0.5, dtype=np.float32))
    critic = _network("D", "D_stylegan2", [from_rgb], {"resolution": size}, version)
    networks = [
        _tensorflow_generator(name, weights, kwargs, label_scope, version)
        for name, weights in (("G", _other(state)), ("Gs", state))
    ]
    with path.open("wb") as file:
        dump((networks[0], critic, networks[1]), file, protocol, numpy_path)


def rosinality_object(state: Weights, whole: bool) -> Any:
    """What `rosinality_pt` saves: the state dict of the averaged generator, alone or in a training checkpoint."""
    averaged = state_with_metadata(rosinality_state(state))
    if not whole:
        return averaged
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.002, betas=(0.0, 0.99))
    weight.sum().backward()
    optimizer.step()
    return {
        "g": state_with_metadata(rosinality_state(_other(state))),
        "d": state_with_metadata({"convs.0.0.weight": torch.full((4, 3, 1, 1), 0.5)}),
        "g_ema": averaged,
        "g_optim": optimizer.state_dict(),
        "args": argparse.Namespace(path="faces.lmdb", batch=16, r1=10.0, augment=False, mixing=0.9, wandb=None),
        "ada_aug_p": 0.0,
        "latent_avg": state["mapping.w_avg"].detach().clone(),
    }


def rosinality_pt(path: Path, state: Weights, *, whole: bool = True, zip: bool = True) -> None:
    """A .pt of rosinality's StyleGAN2, as the new archive or the old stream; bare ones carry no latent average."""
    with path.open("wb") as file:
        torch_dump(rosinality_object(state, whole), file, zip)


def state_dict_pt(
    path: Path,
    state: Weights,
    *,
    zip: bool = True,
    prefix: str = "",
    nested: bool = False,
    dtype: torch.dtype | None = None,
) -> None:
    """A .pt of a plain state dict, its names behind `prefix` ("G_ema.") or the whole under "G_ema" (`nested`)."""
    named = {prefix + name: value if dtype is None else value.to(dtype) for name, value in state.items()}
    found = state_with_metadata(named)
    with path.open("wb") as file:
        torch_dump({"G_ema": found, "step": 1000} if nested else found, file, zip)
