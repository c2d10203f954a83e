"""The reference of the Python API, built from the docstrings: `python -m tests.api_pages FOLDER` in the repository.

Ends with exit code 1 and one line for each problem: a warning of pdoc, a public name without a docstring, a name of
ours in a docstring that leads nowhere, a link within the pages without an end.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

PUBLIC = (
    "pipeline.notebook",
    "pipeline.displaying",
    "pipeline.batch",
    "pipeline.experiment",
    "pipeline.schema",
    "pipeline.run",
    "pipeline.models",
    "pipeline.table",
    "pipeline.folders",
    "pipeline.pictures",
    "pipeline.locating",
    "pipeline.blending",
    "pipeline.counting",
    "pipeline.error_pages",
    "pipeline.errors",
    "pipeline.doctor_check",
    "editing.session",
    "editing.drag",
    "editing.drag_task",
    "editing.seen_drag",
    "editing.presets",
    "editing.directions",
    "editing.blend",
    "editing.blend_common",
    "inversion.projector",
    "inversion.pivotal",
    "inversion.losses",
    "inversion.perceptual",
    "inversion.identity",
    "inversion.occlusion",
    "inversion.optimisation",
    "inversion.generators.protocol",
    "inversion.generators.checkpoint",
    "data.photo",
    "data.photo_type",
    "data.landmarks",
    "data.alignment",
    "data.regions",
    "data.errors",
)
"""The modules that docs/python.md shows, and those whose types they take and return."""

OURS = ("pipeline", "editing", "inversion", "data", "conf")
REFERENCE = re.compile(r"(?<!`)`((?:" + "|".join(OURS) + r")(?:\.\w+)+)(?:\([^`]*\))?`(?!`)")
NO_MODULE = re.compile(r"\.(py|yaml|json|md)$")


class Page(HTMLParser):
    """The names that a page defines and the addresses that it links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        if told.get("id"):
            self.ids.add(str(told["id"]))
        if tag == "a" and told.get("href"):
            self.links.append(str(told["href"]))


def build(folder: Path, modules: tuple[str, ...] = PUBLIC) -> list[str]:
    """Write the pages into a folder; every problem as one line, none when all is well."""
    import pdoc
    import pdoc.render

    # Packages that warn as they are imported are not what is asked here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = [importlib.import_module(name) for name in modules]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pdoc.render.configure(docformat="markdown", footer_text="photodrag", show_source=False)
        pdoc.pdoc(*modules, output_directory=folder)
    problems = [f"pdoc warns: {' '.join(str(one.message).split())}" for one in caught]
    for module in loaded:
        problems += members_problems(module)
    return problems + link_problems(folder)


def members_problems(module: object) -> list[str]:
    """What is wrong with the docstrings of a module and of what it defines for others."""
    problems = []
    for name, member in members(module):
        text = inspect.getdoc(member)
        if not text:
            problems.append(f"{name} has no docstring")
            continue
        for reference in REFERENCE.findall(text):
            if not NO_MODULE.search(reference) and not leads_somewhere(reference):
                problems.append(f"{name} names {reference}, which is not there")
    return problems


def members(module: object) -> Iterator[tuple[str, object]]:
    """The module, its public functions and classes, and their own public methods, each with its full name."""
    owner = str(module.__name__)  # type: ignore[attr-defined]
    yield owner, module
    for name, member in vars(module).items():
        if name.startswith("_") or getattr(member, "__module__", None) != owner:
            continue
        if inspect.isfunction(member) or inspect.isclass(member):
            yield f"{owner}.{name}", member
        if inspect.isclass(member):
            for inner, method in vars(member).items():
                plain = method.__func__ if isinstance(method, classmethod | staticmethod) else method
                if not inner.startswith("_") and (inspect.isfunction(plain) or isinstance(plain, property)):
                    yield f"{owner}.{name}.{inner}", plain


def leads_somewhere(reference: str) -> bool:
    """Whether a dotted name is a module of ours or something in one."""
    parts = reference.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part) and part not in getattr(found, "__annotations__", {}):
                return False
            found = getattr(found, part, None)
        return True
    return False


def link_problems(folder: Path) -> list[str]:
    """The links between the pages that have no end."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")}
    problems = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            ids = pages[target].ids if target in pages else None
            if ids is None or (parts.fragment and unquote(parts.fragment) not in ids):
                problems.append(f"{path.relative_to(folder.resolve())} links to {link}, which is not there")
    return problems


def main(words: list[str]) -> int:
    """Build into the folder that is given; 1 when there is any problem."""
    if len(words) != 1:
        print("usage: python -m tests.api_pages FOLDER", file=sys.stderr)
        return 2
    problems = build(Path(words[0]))
    for problem in problems:
        print(problem)
    print(f"{len(PUBLIC)} modules, {len(problems)} problems: {Path(words[0]) / 'index.html'}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
