"""Objects that pickle as those of the published checkpoints do: the same opcodes, names and nesting, none of the code.

Every class here is a dummy; its module exists in `sys.modules` only inside `published_modules()`, while a file is
written. The source text inside the files is ours, and running it raises.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, ClassVar
from unittest import mock

import numpy as np
import torch
from torch import Tensor

SOURCE = (
    '"""A stand-in for the source of a network."""\nraise RuntimeError("source inside a checkpoint was executed")\n'
)
PERSISTENCE_VERSION = 6
BUFFERS = frozenset(
    {"w_avg", "noise_const", "resample_filter", "up_filter", "down_filter", "magnitude_ema", "transform"}
    | {"freqs", "phases", "p", "Hz_geom"}
)
CLASSES = {
    "mapping": "MappingNetwork",
    "synthesis": "SynthesisNetwork",
    "input": "SynthesisInput",
    "conv0": "SynthesisLayer",
    "conv1": "SynthesisLayer",
    "torgb": "ToRGBLayer",
    "skip": "Conv2dLayer",
    "affine": "FullyConnectedLayer",
    "embed": "FullyConnectedLayer",
    "out": "FullyConnectedLayer",
    "fromrgb": "Conv2dLayer",
}
"""Class names of the parts of a network; `fc*`, `b*` and `L*` follow in `class_of`."""


class EasyDict(dict):
    """Pickles as `dnnlib.util.EasyDict`, a dictionary subclass."""


class Network:
    """Pickles as `dnnlib.tflib.network.Network` with the state it is given."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def __getstate__(self) -> dict[str, Any]:
        return self.state


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> Any:
    raise RuntimeError("a persistent object of a checkpoint was reconstructed")


PUBLISHED = {
    "torch_utils.persistence": (_reconstruct_persistent_obj,),
    "dnnlib.util": (EasyDict,),
    "dnnlib.tflib.network": (Network,),
}
for _module, _members in PUBLISHED.items():
    for _member in _members:
        _member.__module__ = _module


@contextlib.contextmanager
def published_modules() -> Iterator[None]:
    """Let pickle find the dummies under the published module names."""
    modules: dict[str, types.ModuleType] = {}
    for name, members in PUBLISHED.items():
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            parent = ".".join(parts[:count])
            modules.setdefault(parent, types.ModuleType(parent))
        for member in members:
            setattr(modules[name], member.__name__, member)
    with mock.patch.dict(sys.modules, modules):
        yield


class Persistent:
    """Pickles as an object of a persistent class: a call with its class name, its module's source and its state."""

    def __init__(self, class_name: str, state: dict[str, Any], source: str = SOURCE) -> None:
        self.class_name, self.state, self.source = class_name, state, source

    def __reduce__(self) -> tuple[Callable, tuple[dict[str, Any]], None]:
        meta = {"type": "class", "version": PERSISTENCE_VERSION, "module_src": self.source}
        return _reconstruct_persistent_obj, (meta | {"class_name": self.class_name, "state": self.state},), None


def class_of(name: str) -> str:
    """The class of a part of a network by the part's own name."""
    if name in CLASSES:
        return CLASSES[name]
    if name.startswith("fc"):
        return "FullyConnectedLayer"
    return "SynthesisLayer" if name.startswith("L") else "SynthesisBlock"


def attributes_of(class_name: str, tensors: dict[str, Any]) -> dict[str, Any]:
    """Plain attributes that a part of a network has beside its tensors; gains and sizes are numpy's, as published."""
    weight = tensors.get("weight")
    if not isinstance(weight, Tensor):
        return {}
    if class_name == "FullyConnectedLayer":
        gain = 1.0 / np.sqrt(weight.shape[1])
        return {"activation": "linear", "weight_gain": gain, "bias_gain": 1.0}
    if class_name in ("SynthesisLayer", "Conv2dLayer"):
        none = {} if "bias" in tensors else {"bias": None}
        sizes = {"in_size": np.broadcast_to(np.asarray(36), [2]), "in_cutoff": np.float64(2.0), "critical": np.True_}
        plain = {"activation": "lrelu", "padding": weight.shape[-1] // 2, "act_gain": np.sqrt(2.0), "up": 1}
        return none | sizes | plain
    return {}


def initial_arguments(class_name: str, tensors: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments that a part of a network was made with."""
    weight = tensors.get("weight")
    if not isinstance(weight, Tensor) or weight.dim() < 2:
        return (), {}
    if class_name == "FullyConnectedLayer":
        return (weight.shape[1], weight.shape[0]), {"activation": "linear"}
    return (weight.shape[1], weight.shape[0]), {"kernel_size": weight.shape[-1], "conv_clamp": None}


def plain_tensor(value: Any) -> Any:
    """A tensor with a storage of its own and its strides; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    own = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
    return own.copy_(value.detach())


def as_parameter(value: Any) -> Any:
    """A frozen parameter of a tensor; anything else as it is."""
    return torch.nn.Parameter(plain_tensor(value), requires_grad=False) if isinstance(value, Tensor) else value


def persistent_module(
    state: dict[str, Any], kwargs: dict[str, Any], class_name: str, source: str = SOURCE, args: tuple[Any, ...] = ()
) -> Persistent:
    """The tree of persistent objects whose state dict is `state`; the root was made with `args` and `kwargs`."""
    tensors = {name: value for name, value in state.items() if "." not in name}
    children: dict[str, dict[str, Any]] = {}
    for name, value in state.items():
        if "." in name:
            child, rest = name.split(".", 1)
            children.setdefault(child, {})[rest] = value
    modules = OrderedDict()
    for child, inner in children.items():
        own = {name: value for name, value in inner.items() if "." not in name}
        child_args, child_kwargs = initial_arguments(class_of(child), own)
        modules[child] = persistent_module(inner, child_kwargs, class_of(child), source, child_args)
    parameters = OrderedDict((name, as_parameter(value)) for name, value in tensors.items() if name not in BUFFERS)
    buffers = OrderedDict((name, plain_tensor(value)) for name, value in tensors.items() if name in BUFFERS)
    hooks = ("_backward_hooks", "_forward_hooks", "_forward_pre_hooks", "_state_dict_hooks")
    module_state = {"training": False, "_parameters": parameters, "_buffers": buffers}
    module_state |= {"_non_persistent_buffers_set": set(), "_is_full_backward_hook": None}
    module_state |= {name: OrderedDict() for name in (*hooks, "_load_state_dict_pre_hooks")}
    module_state |= {"_modules": modules, **attributes_of(class_name, tensors)}
    return Persistent(class_name, module_state | {"_init_args": args, "_init_kwargs": kwargs}, source)


class NamingPickler(pickle._Pickler):  # the C pickler cannot be told other names
    """Python's own pickler, except that numpy's internal functions have the module names of the chosen release."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)
    numpy_path = "numpy._core"

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module = getattr(obj, "__module__", None) or ""
        if not module.startswith(("numpy._core.", "numpy.core.")):
            super().save_global(obj, name)
            return
        module = sys.intern(f"{self.numpy_path}.{module.split('core.', 1)[1]}")
        name = name or obj.__name__
        if self.proto >= 4:
            self.save(module)
            self.save(name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        self.memoize(obj)

    dispatch[types.FunctionType] = save_global


class OldNamingPickler(NamingPickler):
    """Names of numpy 1.x."""

    numpy_path = "numpy.core"


def pickler_for(numpy_path: str) -> type[NamingPickler]:
    """The pickler that writes `numpy.core` or `numpy._core`."""
    return {"numpy._core": NamingPickler, "numpy.core": OldNamingPickler}[numpy_path]


def dump(value: Any, file: BinaryIO, protocol: int, numpy_path: str) -> None:
    """`pickle.dump` with the published names."""
    with published_modules():
        pickler_for(numpy_path)(file, protocol).dump(value)


def torch_dump(value: Any, file: BinaryIO, as_zip: bool, numpy_path: str = "numpy._core") -> None:
    """`torch.save` with the published names, as the new archive or the old stream."""
    module = types.ModuleType("pickle")
    module.__dict__.update(vars(pickle))
    module.Pickler = pickler_for(numpy_path)
    with published_modules():
        torch.save(value, file, pickle_module=module, _use_new_zipfile_serialization=as_zip)
