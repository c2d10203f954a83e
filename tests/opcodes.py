"""Pickles put together from opcodes, for the files that no honest program writes."""

from __future__ import annotations

import pickle
import shlex
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Lazy = dict[str, Callable[[], bytes]]
"""Named files, each built when it is asked for."""


class Ops(bytes):
    """Opcodes that leave one value on the stack; other values are encoded by `push`."""


@dataclass(frozen=True)
class Marker:
    """The file that a payload makes when something runs it."""

    path: Path

    @property
    def name(self) -> str:
        """Its path as text."""
        return str(self.path)

    @property
    def shell(self) -> str:
        """A shell command that makes it."""
        return f"touch {shlex.quote(self.name)}"

    @property
    def code(self) -> str:
        """A Python expression that makes it."""
        return f"open({self.name!r}, 'w').close()"


def integer(value: int) -> bytes:
    """A whole number of any size."""
    if -(1 << 31) <= value < 1 << 31:
        return pickle.BININT + struct.pack("<i", value)
    raw = pickle.encode_long(value)
    if len(raw) < 256:
        return pickle.LONG1 + bytes([len(raw)]) + raw
    return pickle.LONG4 + struct.pack("<i", len(raw)) + raw


def push(value: Any) -> Ops:
    """Opcodes that push a plain value; bytes that are `Ops` already stay as they are."""
    if isinstance(value, Ops):
        return value
    if value is None or isinstance(value, bool):
        return Ops({None: pickle.NONE, True: pickle.NEWTRUE, False: pickle.NEWFALSE}[value])
    if isinstance(value, int):
        return Ops(integer(value))
    if isinstance(value, float):
        return Ops(pickle.BINFLOAT + struct.pack(">d", value))
    if isinstance(value, str):
        raw = value.encode("utf-8", "surrogatepass")
        return Ops(pickle.BINUNICODE + struct.pack("<I", len(raw)) + raw)
    if isinstance(value, bytes):
        return Ops(pickle.BINBYTES + struct.pack("<I", len(value)) + value)
    if isinstance(value, tuple):
        return Ops(pickle.MARK + b"".join(map(push, value)) + pickle.TUPLE)
    if isinstance(value, list):
        return Ops(pickle.EMPTY_LIST + pickle.MARK + b"".join(map(push, value)) + pickle.APPENDS)
    assert isinstance(value, dict)
    return Ops(pickle.EMPTY_DICT + items(value))


def items(pairs: dict[Any, Any]) -> bytes:
    """Opcodes that put pairs into the dictionary on the stack."""
    return pickle.MARK + b"".join(push(key) + push(value) for key, value in pairs.items()) + pickle.SETITEMS


def name(module: str, attribute: str) -> Ops:
    """A class or function by its name, as protocols 0 to 3 write it."""
    return Ops(pickle.GLOBAL + f"{module}\n{attribute}\n".encode())


def dotted(module: str, attribute: str) -> Ops:
    """A class or function by its name as protocol 4 writes it, where a name may have dots."""
    return Ops(push(module) + push(attribute) + pickle.STACK_GLOBAL)


def apply(function: Ops, *args: Any) -> Ops:
    """A call of what `function` pushes."""
    return Ops(function + push(args) + pickle.REDUCE)


def call(module: str, attribute: str, *args: Any) -> Ops:
    """A call of a function by its name."""
    return apply(name(module, attribute), *args)


def ordered(pairs: dict[Any, Any] | None = None) -> Ops:
    """An OrderedDict."""
    return Ops(call("collections", "OrderedDict") + (items(pairs) if pairs else b""))


def build(target: Any, state: Any) -> Ops:
    """An object that is given a state."""
    return Ops(push(target) + push(state) + pickle.BUILD)


def put(index: int) -> bytes:
    """Remember the topmost value."""
    return pickle.LONG_BINPUT + struct.pack("<I", index)


def get(index: int) -> Ops:
    """Recall a remembered value."""
    return Ops(pickle.LONG_BINGET + struct.pack("<I", index))


def pickled(value: Any, protocol: int = 2) -> bytes:
    """A whole pickle of one value."""
    return pickle.PROTO + bytes([protocol]) + push(value) + pickle.STOP


def inside(honest: bytes, payload: Any) -> bytes:
    """An honest pickle that also does the payload, before its end and without a trace in its value."""
    assert honest.endswith(pickle.STOP)
    return honest[:-1] + push(payload) + pickle.POP + pickle.STOP
