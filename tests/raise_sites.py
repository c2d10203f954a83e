"""Every place of the source where an error is made that a person may read, and what its sentence looks like.

Found in the syntax trees alone: classes of ours that descend from an exception (those of `data.errors`, say), and
calls of them anywhere (also in functions that return an error instead of raising it), and for each the skeletons of its
message: its text with `{}` where a value stands.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PLACE = "{}"
MOST_VARIANTS = 60


@dataclass(frozen=True)
class Site:
    """One message of one place: `skeleton` has `{}` for each value."""

    module: str
    line: int
    error: str
    skeleton: str


@dataclass
class Module:
    """A module's tree, its functions by name and where each of them is called."""

    name: str
    tree: ast.Module
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    calls: dict[str, list[ast.Call]] = field(default_factory=dict)
    owner: dict[int, ast.FunctionDef] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str, source: str) -> Module:
        module = cls(name, ast.parse(source))
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                module.functions[node.name] = node
                for inner in ast.walk(node):
                    # A nested function comes later in the walk: its own nodes then belong to it, and it to this one.
                    if inner is not node:
                        module.owner[id(inner)] = node
            if isinstance(node, ast.Call):
                module.calls.setdefault(called(node), []).append(node)
        return module


def called(call: ast.Call) -> str:
    """The last part of the name of what is called."""
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def read_modules(root: Path, packages: tuple[str, ...]) -> list[Module]:
    """The modules of the packages in `root`, by name."""
    paths = sorted(path for package in packages for path in (root / package).rglob("*.py"))
    names = [".".join(path.relative_to(root).with_suffix("").parts) for path in paths]
    return [Module.read(name, path.read_text(encoding="utf-8")) for name, path in zip(names, paths, strict=True)]


def error_classes(modules: list[Module]) -> dict[str, str]:
    """The exceptions that the modules define, with the name of what each descends from."""
    parents = {
        node.name: [base.id if isinstance(base, ast.Name) else getattr(base, "attr", "") for base in node.bases]
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
    }
    found: dict[str, str] = {}
    grows = True
    while grows:
        new = {
            name: base
            for name, bases in parents.items()
            for base in bases
            if name not in found and (base in found or is_exception(base))
        }
        found |= new
        grows = bool(new)
    return found


def is_exception(name: str) -> bool:
    """Whether a built-in exception has that name."""
    kind = getattr(builtins, name, None)
    return isinstance(kind, type) and issubclass(kind, BaseException)


def sites(modules: list[Module]) -> list[Site]:
    """Every message of an exception of ours."""
    classes = error_classes(modules)
    found = []
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and called(node) in classes:
                for skeleton in skeletons(module, node):
                    found.append(Site(module.name, node.lineno, called(node), skeleton))
            elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name) and node.exc.id in classes:
                found.append(Site(module.name, node.lineno, node.exc.id, ""))
    return found


def foreign_raises(modules: list[Module]) -> list[Site]:
    """Where an exception of Python or of a package is raised: `skeleton` is empty."""
    found = []
    for module in modules:
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Raise) or node.exc is None:
                continue
            made = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            name = made.id if isinstance(made, ast.Name) else getattr(made, "attr", "")
            if name in ("HTTPException", "SystemExit") or is_exception(name):
                found.append(Site(module.name, node.lineno, name, ""))
    return found


def skeletons(module: Module, call: ast.Call) -> list[str]:
    """The messages of one call of an error class; one that takes them from its callers has as many as they give."""
    if not call.args:
        return [""]
    around = module.owner.get(id(call))
    return sorted(set(_texts(module, call.args[0], around, whole=True)))


def _texts(module: Module, node: ast.expr, around: ast.FunctionDef | None, whole: bool = False) -> list[str]:
    """What an expression may say. `whole`: it is the whole message, so names and calls are followed, too."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [tidy(node.value)]
    if isinstance(node, ast.JoinedStr):
        parts = [
            _texts(module, part, around) if isinstance(part, ast.Constant) else _values(module, part.value, around)  # type: ignore[attr-defined]
            for part in node.values
        ]
        return _joined(parts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _joined([_texts(module, node.left, around), _texts(module, node.right, around)])
    if isinstance(node, ast.IfExp):
        return [*_texts(module, node.body, around, whole), *_texts(module, node.orelse, around, whole)]
    if isinstance(node, ast.Call) and whole and (function := module.functions.get(called(node))):
        given = [
            text
            for inner in ast.walk(function)
            if isinstance(inner, ast.Return) and inner.value is not None
            for text in _texts(module, inner.value, function, whole=True)
        ]
        return given or [PLACE]
    if isinstance(node, ast.Name) and whole and around is not None:
        return _named(module, node.id, around)
    return [PLACE]


def _values(module: Module, node: ast.expr, around: ast.FunctionDef | None) -> list[str]:
    """What an inserted value may say: a name's text where it is given one here or by callers, of all else `{}`."""
    if not isinstance(node, ast.Name):
        return [PLACE]
    while around is not None:
        if _position(around, node.id) is not None:
            return _from_callers(module, node.id, around)
        assigned = _assigned(node.id, around)
        if assigned:
            one = assigned[0]
            return _texts(module, one, around) if len(assigned) == 1 and _is_text(one) else [PLACE]
        around = module.owner.get(id(around))
    return [PLACE]


def _named(module: Module, name: str, around: ast.FunctionDef) -> list[str]:
    """What a name may say: what is assigned to it in the function, or given for it by callers."""
    assigned = [text for value in _assigned(name, around) for text in _texts(module, value, around, whole=True)]
    return assigned or (_from_callers(module, name, around) if _position(around, name) is not None else [PLACE])


def _assigned(name: str, function: ast.FunctionDef) -> list[ast.expr]:
    """What is assigned to a name anywhere in a function."""
    assignments = [inner for inner in ast.walk(function) if isinstance(inner, ast.Assign)]
    return [
        each.value for each in assignments if any(isinstance(to, ast.Name) and to.id == name for to in each.targets)
    ]


def _is_text(node: ast.expr | None) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _position(function: ast.FunctionDef, name: str) -> int | None:
    """Where a parameter stands among those of a call, without self."""
    names = [argument.arg for argument in function.args.args if argument.arg not in ("self", "cls")]
    return names.index(name) if name in names else None


def _from_callers(module: Module, name: str, function: ast.FunctionDef) -> list[str]:
    """The texts that are written at the calls of a function for one parameter; `{}` for what is no text there."""
    at = _position(function, name)
    assert at is not None
    found: list[str] = []
    for call in module.calls.get(function.name, []):
        keyword = next((word.value for word in call.keywords if word.arg == name), None)
        value = keyword or (call.args[at] if at < len(call.args) else None)
        found += _texts(module, value, module.owner.get(id(call))) if value and _is_text(value) else [PLACE]
    return sorted(set(found)) or [PLACE]


def _joined(parts: list[list[str]]) -> list[str]:
    """Every combination of the parts; parts that give too many of them are `{}`."""
    texts = [""]
    for part in parts:
        options = part if len(texts) * len(part) <= MOST_VARIANTS else [PLACE]
        texts = [f"{text}{option}" for text in texts for option in options]
    return [tidy(text) for text in texts]


def tidy(text: str) -> str:
    """Line breaks become spaces, and values side by side one; spaces at the ends stay, as texts are joined."""
    text = text.replace("\n", " ")
    while PLACE + PLACE in text:
        text = text.replace(PLACE + PLACE, PLACE)
    return text


def grouped(found: list[Site]) -> Iterator[tuple[str, list[Site]]]:
    """The sites by skeleton, in the order in which they were found."""
    by_text: dict[str, list[Site]] = {}
    for site in found:
        by_text.setdefault(site.skeleton, []).append(site)
    yield from by_text.items()
