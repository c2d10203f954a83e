"""An interpreter of pickle's opcodes that builds plain data and stand-ins: no class is imported, nothing is called.

Known names become values through `builders.BUILDERS`; any other name ends the reading. Work, text and time are bounded
by a `Budget` that nested streams share, so a small file cannot ask for much.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from inversion.generators.formats.source import FileSource, MemorySource, RefusedError, Source

HIGHEST_PROTOCOL = 4
INLINE_BYTES = 1 << 12
MAX_INTEGER_BYTES = 256
MAX_NAME = 256
CHECK_TIME_EVERY = 4096
WINDOW_BYTES = 1 << 16


@dataclass(slots=True)
class Budget:
    """What reading one file may cost: opcodes, bytes of text kept in memory, nested streams, seconds."""

    steps: int = 1_000_000
    text_bytes: int = 64 << 20
    streams: int = 50_000
    seconds: float = 60.0
    deadline: float = field(init=False)

    def __post_init__(self) -> None:
        self.deadline = time.monotonic() + self.seconds

    def step(self) -> None:
        """Count one opcode."""
        self.steps -= 1
        if self.steps < 0:
            raise RefusedError("has more pickle instructions than any checkpoint needs")
        if self.steps % CHECK_TIME_EVERY == 0:
            self.check_time()

    def text(self, count: int) -> None:
        """Count bytes that stay in memory."""
        self.text_bytes -= count
        if self.text_bytes < 0:
            raise RefusedError("holds more text than any checkpoint needs")

    def stream(self) -> None:
        """Count one nested stream."""
        self.streams -= 1
        if self.streams < 0:
            raise RefusedError("holds more nested streams than any checkpoint needs")
        self.check_time()

    def check_time(self) -> None:
        """Refuse a file whose reading takes too long."""
        if time.monotonic() > self.deadline:
            raise RefusedError(f"was not read within {self.seconds:.0f} s")


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a class or function; the thing itself is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return re.sub(r"[^A-Za-z0-9_.]", "?", f"{self.module}.{self.name}"[:80])


class Instance:
    """Stands for an object of a known class: its class, arguments, dictionary items and state, none of it acted on."""

    __slots__ = ("args", "cls", "items", "state")

    def __init__(self, cls: Global, args: tuple[Any, ...]) -> None:
        self.cls, self.args = cls, args
        self.items: dict[Any, Any] = {}
        self.state: Any = None


class OrderedItems(dict[Any, Any]):
    """Stands for an OrderedDict; attributes that it carries (`_metadata`) are dropped."""


class Builders(Protocol):
    """What an interpreter asks about names: whether one is known, and what calling or making it gives."""

    def known(self, name: Global) -> bool: ...

    def call(self, name: Global, args: tuple[Any, ...]) -> Any: ...

    def make(self, cls: Global, args: tuple[Any, ...]) -> Any: ...


@dataclass(slots=True)
class Cursor:
    """Reads a source from front to back through a small window."""

    source: Source
    position: int = 0
    _window: bytes = b""
    _window_start: int = 0

    def take(self, count: int) -> bytes:
        """The next bytes."""
        first = self.position - self._window_start
        if first < 0 or first + count > len(self._window):
            if count > WINDOW_BYTES:
                data = self.source.read(self.position, count)
                self.position += count
                return data
            self._window_start = self.position
            room = max(self.source.size - self.position, 0)
            self._window = self.source.read(self.position, max(count, min(WINDOW_BYTES, room)))
            first = 0
        self.position += count
        return self._window[first : first + count]

    def line(self) -> str:
        """The next line of ASCII text without its end; it may not be long."""
        found = bytearray()
        while (one := self.take(1)) != b"\n":
            found += one
            if len(found) > MAX_NAME:
                raise RefusedError("holds a name without an end")
        return decode(bytes(found), "ascii").rstrip("\r")

    def skip(self, count: int) -> Source:
        """The next bytes, left where they are."""
        if count < 0 or self.position + count > self.source.size:
            raise RefusedError(
                f"is cut off or damaged: it claims {count} bytes where {self.source.size - self.position} are"
            )
        start, self.position = self.position, self.position + count
        if isinstance(self.source, FileSource):
            return self.source.window(start, count)
        return MemorySource(self.source.read(start, count))


def decode(data: bytes, encoding: str) -> str:
    """Text of bytes; RefusedError when they are none."""
    try:
        return data.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")
    except UnicodeError as error:
        raise RefusedError("holds text that is not text") from error


_MARK = object()


class Interpreter:
    """Reads one pickle from a cursor; `persistent` turns persistent ids into values."""

    def __init__(
        self,
        cursor: Cursor,
        budget: Budget,
        builders: Builders,
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self.cursor, self.budget, self.builders, self.persistent = cursor, budget, builders, persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The value of the pickle; RefusedError for anything unknown, unbounded or damaged."""
        if self.cursor.take(1) != pickle.PROTO:
            raise RefusedError("begins a pickle of the old text protocol, which no checkpoint uses")
        protocol = self.cursor.take(1)[0]
        if not 2 <= protocol <= HIGHEST_PROTOCOL:
            raise RefusedError(f"is a pickle of protocol {protocol}; checkpoints have 2 to {HIGHEST_PROTOCOL}")
        while True:
            self.budget.step()
            opcode = self.cursor.take(1)
            if opcode == pickle.STOP:
                return self.pop()
            handler = HANDLERS.get(opcode)
            if handler is None:
                raise RefusedError(f"has the pickle instruction {opcode_name(opcode)}, which no checkpoint needs")
            handler(self)

    def pop(self) -> Any:
        """The topmost value."""
        if not self.stack or self.stack[-1] is _MARK:
            raise RefusedError("is a damaged pickle: a value is missing")
        return self.stack.pop()

    def top(self) -> Any:
        """The topmost value, left there."""
        if not self.stack or self.stack[-1] is _MARK:
            raise RefusedError("is a damaged pickle: a value is missing")
        return self.stack[-1]

    def pop_marked(self) -> list[Any]:
        """The values above the last mark, which goes with them."""
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                values = self.stack[index + 1 :]
                del self.stack[index:]
                return values
        raise RefusedError("is a damaged pickle: a mark is missing")

    def number(self, form: str) -> int:
        """A little-endian whole number in the stream."""
        value: int = struct.unpack(form, self.cursor.take(struct.calcsize(form)))[0]
        return value

    def text(self, count: int) -> None:
        """Push a string; a long one stays in the file as a source of UTF-8 bytes."""
        if count > INLINE_BYTES * 256:
            self.stack.append(LongText(self.cursor.skip(count)))
            return
        self.budget.text(count)
        self.stack.append(decode(self.cursor.take(count), "utf-8"))

    def raw(self, count: int) -> None:
        """Push bytes; many of them stay in the file as a source."""
        if count > INLINE_BYTES:
            self.stack.append(self.cursor.skip(count))
            return
        self.budget.text(count)
        self.stack.append(self.cursor.take(count))

    def long(self, count: int) -> None:
        """Push a whole number of `count` bytes."""
        if not 0 <= count <= MAX_INTEGER_BYTES:
            raise RefusedError(f"holds a whole number of {count} bytes")
        self.stack.append(int.from_bytes(self.cursor.take(count), "little", signed=True))

    def put(self, index: int) -> None:
        """Remember the topmost value."""
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        """Push a remembered value."""
        if index not in self.memo:
            raise RefusedError("is a damaged pickle: it recalls what it never kept")
        self.stack.append(self.memo[index])

    def find(self, module: Any, name: Any) -> None:
        """Push a name; RefusedError when it is none that checkpoints have."""
        if not (isinstance(module, str) and isinstance(name, str)):
            raise RefusedError("names a class by something that is not text")
        found = Global(module[:MAX_NAME], name[:MAX_NAME])
        if not self.builders.known(found):
            raise RefusedError(f"asks for {found}, which no checkpoint needs; nothing of it was run")
        self.stack.append(found)

    def reduce(self) -> None:
        """Push what the builders make of a call."""
        args, function = self.pop(), self.pop()
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise RefusedError("calls something that is not a name")
        self.stack.append(self.builders.call(function, args))

    def new_object(self) -> None:
        """Push a stand-in for an object."""
        args, cls = self.pop(), self.pop()
        if not isinstance(cls, Global) or not isinstance(args, tuple):
            raise RefusedError("makes an object of something that is not a class")
        self.stack.append(self.builders.make(cls, args))

    def build(self) -> None:
        """Keep an object's state beside it."""
        state, target = self.pop(), self.top()
        if isinstance(target, Instance) and target.state is None:
            target.state = state
        elif not (isinstance(target, OrderedItems) and isinstance(state, dict)):
            raise RefusedError("sets the state of something that has none")

    def set_items(self, flat: list[Any]) -> None:
        """Put pairs into the topmost dictionary."""
        target = self.top()
        items = target.items if isinstance(target, Instance) else target
        if not isinstance(items, dict) or len(flat) % 2:
            raise RefusedError("is a damaged pickle: it fills something that is no dictionary")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            items[check_key(key)] = value

    def append(self, values: list[Any]) -> None:
        """Lengthen the topmost list."""
        target = self.top()
        if not isinstance(target, list):
            raise RefusedError("is a damaged pickle: it lengthens something that is no list")
        target.extend(values)

    def add(self, values: list[Any]) -> None:
        """Fill the topmost set."""
        target = self.top()
        if not isinstance(target, set):
            raise RefusedError("is a damaged pickle: it fills something that is no set")
        target.update(check_key(value) for value in values)

    def load_persistent(self) -> None:
        """Push what a persistent id stands for."""
        key = self.pop()
        if self.persistent is None:
            raise RefusedError("refers to data outside itself")
        self.stack.append(self.persistent(key))

    def tuple_of(self, count: int) -> None:
        """Push the topmost `count` values as one tuple."""
        values = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(values)))


@dataclass(frozen=True, eq=False, slots=True)
class LongText:
    """A string that stays in the file, as UTF-8."""

    source: Source


def check_key(key: Any) -> Any:
    """A dictionary key whose hash is cheap and cannot be made to collide: text, names and numbers of 60 bits."""
    if key is None or isinstance(key, (str, Global)) or (isinstance(key, int) and abs(key) < 1 << 60):
        return key
    raise RefusedError("has a dictionary key that is neither text nor a small number")


def opcode_name(opcode: bytes) -> str:
    """What Python's documentation calls an opcode."""
    for known in pickletools.opcodes:
        if known.code == opcode.decode("latin-1"):
            return known.name
    return repr(opcode)


def _pop_dict(self: Interpreter) -> None:
    flat = self.pop_marked()
    self.stack.append({})
    self.set_items(flat)


def _stack_global(self: Interpreter) -> None:
    name, module = self.pop(), self.pop()
    self.find(module, name)


def _pop_any(self: Interpreter) -> None:
    if not self.stack:
        raise RefusedError("is a damaged pickle: a value is missing")
    self.stack.pop()


def _set_one(self: Interpreter) -> None:
    value, key = self.pop(), self.pop()
    self.set_items([key, value])


def _append_one(self: Interpreter) -> None:
    value = self.pop()
    self.append([value])


HANDLERS: dict[bytes, Callable[[Interpreter], object]] = {
    pickle.FRAME: lambda self: self.number("<Q"),
    pickle.MARK: lambda self: self.stack.append(_MARK),
    pickle.POP: _pop_any,
    pickle.POP_MARK: lambda self: self.pop_marked(),
    pickle.DUP: lambda self: self.stack.append(self.top()),
    pickle.NONE: lambda self: self.stack.append(None),
    pickle.NEWTRUE: lambda self: self.stack.append(True),
    pickle.NEWFALSE: lambda self: self.stack.append(False),
    pickle.BININT: lambda self: self.stack.append(self.number("<i")),
    pickle.BININT1: lambda self: self.stack.append(self.number("<B")),
    pickle.BININT2: lambda self: self.stack.append(self.number("<H")),
    pickle.LONG1: lambda self: self.long(self.number("<B")),
    pickle.LONG4: lambda self: self.long(self.number("<i")),
    pickle.BINFLOAT: lambda self: self.stack.append(struct.unpack(">d", self.cursor.take(8))[0]),
    pickle.BINUNICODE: lambda self: self.text(self.number("<I")),
    pickle.SHORT_BINUNICODE: lambda self: self.text(self.number("<B")),
    pickle.BINUNICODE8: lambda self: self.text(self.number("<Q")),
    pickle.BINBYTES: lambda self: self.raw(self.number("<I")),
    pickle.SHORT_BINBYTES: lambda self: self.raw(self.number("<B")),
    pickle.BINBYTES8: lambda self: self.raw(self.number("<Q")),
    pickle.EMPTY_TUPLE: lambda self: self.stack.append(()),
    pickle.TUPLE1: lambda self: self.tuple_of(1),
    pickle.TUPLE2: lambda self: self.tuple_of(2),
    pickle.TUPLE3: lambda self: self.tuple_of(3),
    pickle.TUPLE: lambda self: self.stack.append(tuple(self.pop_marked())),
    pickle.EMPTY_LIST: lambda self: self.stack.append([]),
    pickle.LIST: lambda self: self.stack.append(self.pop_marked()),
    pickle.APPEND: _append_one,
    pickle.APPENDS: lambda self: self.append(self.pop_marked()),
    pickle.EMPTY_DICT: lambda self: self.stack.append({}),
    pickle.DICT: _pop_dict,
    pickle.SETITEM: _set_one,
    pickle.SETITEMS: lambda self: self.set_items(self.pop_marked()),
    pickle.EMPTY_SET: lambda self: self.stack.append(set()),
    pickle.ADDITEMS: lambda self: self.add(self.pop_marked()),
    pickle.BINPUT: lambda self: self.put(self.number("<B")),
    pickle.LONG_BINPUT: lambda self: self.put(self.number("<I")),
    pickle.MEMOIZE: lambda self: self.put(len(self.memo)),
    pickle.BINGET: lambda self: self.get(self.number("<B")),
    pickle.LONG_BINGET: lambda self: self.get(self.number("<I")),
    pickle.GLOBAL: lambda self: self.find(self.cursor.line(), self.cursor.line()),
    pickle.STACK_GLOBAL: _stack_global,
    pickle.REDUCE: lambda self: self.reduce(),
    pickle.NEWOBJ: lambda self: self.new_object(),
    pickle.BUILD: lambda self: self.build(),
    pickle.BINPERSID: lambda self: self.load_persistent(),
}
"""The instructions that checkpoints use; the rest are refused by name."""
