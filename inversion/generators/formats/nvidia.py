"""Pickled networks of stylegan2-ada-pytorch, stylegan3 and what is built on them (PTI): tensors and constructor values.

The pickle holds each network's source text; it is never compiled. Names, shapes and the constructor's arguments are all
that is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inversion.generators.formats.builders import Persistent
from inversion.generators.formats.inert import Instance
from inversion.generators.formats.source import RefusedError, TensorRef

NETWORK_KEYS = ("G_ema", "G")
MAX_DEPTH = 16
MAX_TENSORS = 20_000


def pick_network(value: Any) -> Persistent | None:
    """The generator of a pickle: G_ema, else G, else the bare network; None when there is no pickled network."""
    if isinstance(value, Persistent):
        return value
    items = value.items if isinstance(value, Instance) else value
    if isinstance(items, dict):
        for key in NETWORK_KEYS:
            if isinstance(items.get(key), Persistent):
                network: Persistent = items[key]
                return network
    return None


def network_tensors(network: Persistent) -> dict[str, TensorRef]:
    """Parameters and buffers by state-dict name."""
    found: dict[str, TensorRef] = {}
    _collect(network.state, "", found, 0)
    return found


def _collect(state: Mapping[Any, Any], prefix: str, found: dict[str, TensorRef], depth: int) -> None:
    if depth > MAX_DEPTH or len(found) > MAX_TENSORS:
        raise RefusedError("nests its networks deeper than any checkpoint")
    dropped = state.get("_non_persistent_buffers_set")
    for part in ("_parameters", "_buffers"):
        for name, value in _named(state, part):
            if isinstance(value, TensorRef) and not (isinstance(dropped, set) and name in dropped):
                found[prefix + name] = value
            elif value is not None and not isinstance(value, TensorRef):
                raise RefusedError(f"has something else where the tensor {(prefix + name)[:80]} belongs")
    for name, value in _named(state, "_modules"):
        if isinstance(value, Persistent):
            _collect(value.state, f"{prefix}{name}.", found, depth + 1)
        elif value is not None:
            raise RefusedError(f"has something else where the network {(prefix + name)[:80]} belongs")


def _named(state: Mapping[Any, Any], part: str) -> list[tuple[str, Any]]:
    items = state.get(part)
    if not isinstance(items, dict):
        raise RefusedError(f"has a network without {part}")
    if any(not isinstance(name, str) or not 0 < len(name) <= 100 for name in items):
        raise RefusedError("has a part whose name is no short text")
    return list(items.items())


def constructor_values(network: Persistent) -> dict[str, Any]:
    """The keyword arguments that the network was built with, those of its parts (`synthesis_kwargs`) among them."""
    found: dict[str, Any] = {}
    values = plain_dict(network.state.get("_init_kwargs"))
    for key in ("synthesis_kwargs", "mapping_kwargs"):
        part = plain_dict(values.pop(key, None))
        if key == "mapping_kwargs" and "num_layers" in part:
            part["mapping_layers"] = part.pop("num_layers")
        found |= part
    return found | values


def plain_dict(value: Any) -> dict[str, Any]:
    """A copy of a dictionary's text keys; empty for anything else."""
    items = value.items if isinstance(value, Instance) else value
    return {key: item for key, item in items.items() if isinstance(key, str)} if isinstance(items, dict) else {}
