"""Checks of typed settings: names, types, choices and ranges, each failure told in one sentence.

Works on any frozen dataclass whose fields carry the metadata that `knob` writes; it knows no setting by name.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, TypeVar

from data.errors import UsageError

T = TypeVar("T")


def knob(
    default: Any,
    low: float | None = None,
    high: float | None = None,
    *,
    above: float | None = None,
    choices: Sequence[str] = (),
    path: bool = False,
) -> Any:
    """A dataclass field with what it allows: from `low` to `high` inclusive, more than `above`, a non-empty `path`."""
    metadata = {"low": low, "high": high, "above": above, "choices": tuple(choices), "path": path}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def check_fields(config: Any, prefix: str) -> None:
    """Raise UsageError for the first field of a config dataclass that is outside its choices or its range."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        key = f"{prefix}.{item.name}" if prefix else item.name
        choices = item.metadata.get("choices")
        if choices and value is not None and value not in choices:
            raise UsageError(f"{key} is {value}: allowed are {', '.join(choices)}{did_you_mean(str(value), choices)}")
        if item.metadata.get("path") and value is not None and not value.strip():
            raise UsageError(f"{key} is empty: allowed is a path" + (" or null" if item.default is None else ""))
        if _is_number(value) and not _in_range(value, item.metadata):
            kind = "a whole number" if isinstance(value, int) else "a number"
            raise UsageError(f"{key} is {value}: allowed is {kind}{_range_text(item.metadata)}")


def check_mapping(cls: type, values: Mapping[str, Any], prefix: str = "") -> None:
    """Raise UsageError for the first key that `cls` lacks or whose value has the wrong type; nothing is converted."""
    hints = typing.get_type_hints(cls)
    fields = {item.name: item for item in dataclasses.fields(cls)}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name not in fields:
            raise unknown_key(key, known_keys(cls, prefix))
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise UsageError(f"{key} is {value}: allowed is a group of settings ({', '.join(_names(hint))})")
            check_mapping(typing.cast(type, hint), value, f"{key}.")
        elif not _fits(value, hint):
            shown = "null" if value is None else value
            raise UsageError(f"{key} is {shown}: allowed is {_type_text(hint)}{_range_text(fields[name].metadata)}")


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """The dataclass that a checked mapping describes; absent keys keep their defaults, whole numbers become floats."""
    hints = typing.get_type_hints(cls)
    return cls(**{name: _convert(value, hints[name]) for name, value in values.items()})


def known_keys(cls: type, prefix: str = "") -> list[str]:
    """Every dotted key of a config dataclass: each group before its knobs, in the order of definition."""
    keys: list[str] = []
    hints = typing.get_type_hints(cls)
    for name in _names(cls):
        keys.append(prefix + name)
        if dataclasses.is_dataclass(hints[name]):
            keys.extend(known_keys(typing.cast(type, hints[name]), f"{prefix}{name}."))
    return keys


def unknown_key(key: str, known: Sequence[str], listing: str = "photodrag --cfg job") -> UsageError:
    """The sentence for a key that is not in `known`: the nearest one that is, or what lists them all."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    if not near:
        last_to_key = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
        near = [last_to_key[last] for last in difflib.get_close_matches(key.rsplit(".", 1)[-1], last_to_key, n=1)]
    hint = f"did you mean {near[0]}?" if near else f"allowed is what {listing} lists"
    return UsageError(f"{key} is not a setting: {hint}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` when a known word is near, else nothing."""
    match = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {match[0]}?" if match else ""


def _names(cls: Any) -> list[str]:
    return [item.name for item in dataclasses.fields(cls)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _in_range(value: float, metadata: Mapping[str, Any]) -> bool:
    low, high, above = metadata.get("low"), metadata.get("high"), metadata.get("above")
    return (
        math.isfinite(value)
        and (low is None or value >= low)
        and (high is None or value <= high)
        and (above is None or value > above)
    )


def _range_text(metadata: Mapping[str, Any]) -> str:
    low, high, above = metadata.get("low"), metadata.get("high"), metadata.get("above")
    if low is not None and high is not None:
        return f" from {low:.10g} to {high:.10g}"
    lower = f" of at least {low:.10g}" if low is not None else f" above {above:.10g}" if above is not None else ""
    return f"{lower} and at most {high:.10g}" if lower and high is not None else lower


def _convert(value: Any, hint: Any) -> Any:
    """A value that `_fits` the annotation, in exactly its type."""
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value)
    if value is None or isinstance(value, bool):
        return str(value) if hint is str else value
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return _convert(value, next(option for option in typing.get_args(hint) if _fits(value, option)))
    if typing.get_origin(hint) is list:
        return [_convert(item, typing.get_args(hint)[0]) for item in value]
    return hint(value)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain YAML value has the annotated type; text takes any scalar, a number never loses its fraction."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is list:
        return isinstance(value, list) and all(_fits(item, typing.get_args(hint)[0]) for item in value)
    if hint is types.NoneType:
        return value is None
    if hint is str:
        return isinstance(value, str | int | float)
    if hint is float:
        return _is_number(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    assert hint is bool, f"no rule for a field of type {hint}"
    return isinstance(value, bool)


def _type_text(hint: Any) -> str:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(_type_text(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is list:
        inner = typing.get_args(hint)[0]
        nested = typing.get_origin(inner) is list
        return "a list of lists of numbers, as in [[1,2],[3,4]]" if nested else "a list of names"
    return {str: "text", float: "a number", int: "a whole number", bool: "true or false", types.NoneType: "null"}[hint]
