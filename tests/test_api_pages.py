"""The reference that is built from the docstrings has no warning, and its checks see what they are there for."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from tests.api_pages import PUBLIC, build, link_problems, main, members_problems

REPOSITORY = Path(__file__).resolve().parents[1]


def test_the_reference_is_built_without_a_warning(tmp_path: Path) -> None:
    assert build(tmp_path) == []
    pages = {
        path.relative_to(tmp_path).with_suffix("").as_posix().replace("/", ".") for path in tmp_path.rglob("*.html")
    }
    assert set(PUBLIC) <= pages
    shown = (tmp_path / "editing" / "session.html").read_text(encoding="utf-8")
    assert "DragSession.set_points" in shown
    assert 'href="drag.html"' in shown  # what a docstring names in backticks becomes a link


def test_the_modules_that_python_md_shows_are_public() -> None:
    text = (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")
    shown = {line.split()[1] for line in text.splitlines() if line.startswith("from ") and " import " in line}
    ours = {name for name in shown if name.split(".")[0] in ("pipeline", "editing", "inversion", "data")}
    assert len(ours) > 15
    assert ours <= set(PUBLIC)


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module whose docstrings have what is to be found."""
    source = '''"""Fine: `editing.session.DragSession.step`, `pipeline.cli`, `data.photo_type.Photo.pixels`."""
def bare(): pass
def wrong():
    """As `editing.session.DragSession.fly(1)` does."""
class Thing:
    """Fine, too."""
    def method(self): pass
    @property
    def half(self):
        """See `inversion.nowhere`."""
    def _own(self): pass
'''
    module = types.ModuleType("odd")
    exec(source, module.__dict__)
    monkeypatch.setitem(sys.modules, "odd", module)
    return module


def test_missing_docstrings_and_names_that_lead_nowhere_are_found(odd: types.ModuleType) -> None:
    assert members_problems(odd) == [
        "odd.bare has no docstring",
        "odd.wrong names editing.session.DragSession.fly, which is not there",
        "odd.Thing.method has no docstring",
        "odd.Thing.half names inversion.nowhere, which is not there",
    ]


def test_links_without_an_end_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<p id="x"><a href="#x"></a><a href="#y"></a><a href="b.html#z"></a>')
    (tmp_path / "b.html").write_text('<a href="a.html#x"></a><a href="c.html"></a><a href="https://example.org/d"></a>')
    assert sorted(link_problems(tmp_path)) == [
        "a.html links to #y, which is not there",
        "a.html links to b.html#z, which is not there",
        "b.html links to c.html, which is not there",
    ]


def test_a_warning_of_the_builder_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photodrag_odd.py").write_text('"""Odd."""\n\n\ndef f(x: "Nowhere") -> None:\n    """Fine."""\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    problems = build(tmp_path / "pages", ("photodrag_odd",))
    assert any(problem.startswith("pdoc warns: Error parsing type annotation Nowhere") for problem in problems)


def test_the_command_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: python -m tests.api_pages FOLDER" in capsys.readouterr().err
