"""The catalogue of errors is complete, says nothing twice, and is found from a sentence."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import error_pages
from pipeline.cli import main
from pipeline.error_pages import AREAS, Entry, anchor_of, areas, entries, explain, fits, matching, page, read_catalogue
from pipeline.errors import INTERRUPTED, UsageError, sentence
from pipeline.studio import security, socket, tasks
from tests.raise_sites import (
    Module,
    Site,
    error_classes,
    foreign_raises,
    grouped,
    is_exception,
    read_modules,
    sites,
    skeletons,
)

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "editing", "inversion", "data", "conf")
MODULES = read_modules(REPOSITORY, PACKAGES)
INTERNAL = read_catalogue("internal")
PASSED_ON = {row["text"] for row in INTERNAL["passed_on"]}
FOREIGN = {row["error"] for row in INTERNAL["foreign"]}

BEHIND_A_PATH = ("RefusedError",)
"""Errors whose message lacks its subject: the path of the file is put before it where it is caught."""

SERVER = next(module for module in MODULES if module.name == "pipeline.studio.server")
ANSWERS = [text for call in SERVER.calls["_error"] for text in skeletons(SERVER, call) if text not in PASSED_ON]
REFUSALS = [security.WRONG_HOST, security.WRONG_PAGE, security.WRONG_TOKEN, security.NO_COOKIE]
"""What the studio's server answers without an error of ours."""

ANY_COMMAND = [
    INTERRUPTED,
    sentence(RuntimeError("x")),
    socket.UNFORESEEN,
    tasks.told(MemoryError()),
]
"""The sentences that no error of ours carries."""


def shown(found: list[Site]) -> list[Site]:
    """The sites whose sentence reaches a person as it is, with the sentence as it is read."""
    return [
        replace(site, skeleton=f"{{}} {site.skeleton}") if site.error in BEHIND_A_PATH else site
        for site in found
        if site.error not in INTERNAL["inner"] and site.skeleton not in PASSED_ON
    ]


ALL = sites(MODULES)
SHOWN = shown(ALL)


def complaints(found: list[Site]) -> list[str]:
    """One sentence for each message that has not exactly one entry."""
    told = []
    for text, places in grouped(found):
        fitting = matching(text)
        where = ", ".join(f"{site.module}:{site.line}" for site in places)
        if not fitting:
            told.append(
                f"{where}: {places[0].error} says {text!r}, which no entry covers: add it to the `says` of the one in "
                "pipeline/error_catalogue/ whose cause and mend are true of it, or write a new entry"
            )
        elif len(fitting) > 1:
            names = ", ".join(entry.anchor for entry in fitting)
            told.append(f"{where}: {text!r} is covered by {names}: leave it to one of them")
    return told


def test_every_error_has_exactly_one_entry() -> None:
    assert len(SHOWN) > 500
    assert "\n".join(complaints(SHOWN)) == ""


def test_what_every_command_may_say_has_an_entry() -> None:
    assert [anchor_of(text) for text in ANY_COMMAND] == ["interrupted", "unforeseen", "unforeseen", "memory"]
    assert [anchor_of(text) for text in REFUSALS] == ["studio-refused"] * 4
    assert [anchor_of(text) for text in ANSWERS] == ["studio-nothing-there"] * 2


VALUES = ("me 1.jpg", "/a: b/c.png", "0.5", "[1, 2]; x")


@pytest.mark.parametrize("value", VALUES)
def test_a_sentence_with_values_in_it_finds_the_same_entry(value: str) -> None:
    lost = []
    for site in SHOWN:
        (wanted,) = matching(site.skeleton)
        found = anchor_of(f"photodrag: {site.skeleton.replace('{}', value)}.")
        if found != wanted.anchor:
            lost.append(f"{site.skeleton!r} with {value!r}: {found} instead of {wanted.anchor}")
    assert "\n".join(lost) == ""


def test_every_sentence_of_the_catalogue_is_said_somewhere() -> None:
    said = [error_pages.plain(text) for text in [*(site.skeleton for site in SHOWN), *ANY_COMMAND, *ANSWERS, *REFUSALS]]
    unsaid = []
    for entry in entries():
        for says, (letters, parts) in zip(entry.says, error_pages._patterns(entry), strict=True):
            # A general sentence may fit what a special one covers: it must be the best for something.
            mine = [text for text in said if fits(parts, text) and letters == best_letters(text)]
            unsaid += [] if mine else [f"{entry.anchor}: nothing says {says!r} any more: remove it"]
    assert "\n".join(unsaid) == ""


def best_letters(text: str) -> int:
    """How many letters the sentence that fits best has of its own."""
    return max(letters for entry in entries() for letters, parts in error_pages._patterns(entry) if fits(parts, text))


def test_what_is_told_apart_as_internal_exists_and_has_a_reason() -> None:
    classes = error_classes(MODULES)
    raised = {site.error for site in ALL}
    assert set(INTERNAL["inner"]) <= set(classes) & raised
    assert all(INTERNAL["inner"].values())
    assert {site.skeleton for site in ALL} >= PASSED_ON
    assert all(row["reason"] for row in [*INTERNAL["passed_on"], *INTERNAL["foreign"]])


def test_exceptions_of_others_are_raised_only_where_somebody_turns_them_into_a_sentence() -> None:
    raised = {site.error: f"{site.module}:{site.line}" for site in foreign_raises(MODULES)}
    strange = {name: where for name, where in raised.items() if name not in FOREIGN}
    assert strange == {}, "raise an error of data.errors, or tell it apart in pipeline/error_catalogue/internal.yaml"
    assert set(raised) == FOREIGN


def test_every_raise_is_seen() -> None:
    """A raise of something that is neither a class that is known nor a function that makes an error fails here."""
    classes = error_classes(MODULES)
    relayed = {row["module"]: row["reason"] for row in INTERNAL["relayed"]}
    unseen, met = [], set()
    for module in MODULES:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Raise) and node.exc is not None:
                made = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                name = made.id if isinstance(made, ast.Name) else getattr(made, "attr", "")
                if not name and relayed.get(module.name):
                    met.add(module.name)
                elif name not in classes and name not in FOREIGN and not makes_an_error(name, module, classes):
                    unseen.append(f"{module.name}:{node.lineno} raises {name}")
    assert unseen == []
    assert met == set(relayed)


def makes_an_error(name: str, here: Module, classes: dict[str, str]) -> bool:
    """Whether the function of that name, here or else in any module, is declared to return an exception."""
    owners = [here] if name in here.functions else [module for module in MODULES if name in module.functions]
    functions = [module.functions[name] for module in owners]
    returned = [ast.unparse(function.returns) if function.returns else "" for function in functions]
    return bool(returned) and all(
        part.strip() in classes or is_exception(part.strip()) for text in returned for part in text.split("|")
    )


def test_the_page_is_what_the_catalogue_gives() -> None:
    written = (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8")
    assert written == page(), "write it anew: python -m pipeline.error_pages > docs/errors.md"


def test_the_files_of_the_catalogue_are_all_read() -> None:
    files = {path.stem for path in (REPOSITORY / "pipeline" / "error_catalogue").glob("*.yaml")}
    assert files == {*AREAS, "internal"}
    anchors = [entry.anchor for entry in entries()]
    assert len(set(anchors)) == len(anchors) == sum(len(area.entries) for area in areas())
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", anchor) for anchor in anchors)


@pytest.mark.parametrize("entry", list(entries()), ids=lambda entry: entry.anchor)
def test_cause_and_mend_are_sentences(entry: Entry) -> None:
    for text in (entry.cause, entry.mend):
        assert text[0].isupper() or text[0] == "`"
        assert text.endswith((".", ")"))
        assert 20 < len(text) < 450
    assert entry.says
    assert not entry.title.endswith(".")


def test_links_of_the_catalogue_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page()):
        assert (REPOSITORY / "docs" / target).is_file(), target


@pytest.mark.parametrize(
    ("said", "anchor"),
    [
        ("photodrag: photo is nothing.jpg, which does not exist: allowed is the path of a file.", "setting-path"),
        ("There is no photo 'me: too.jpg'; check the path.", "photo-not-there"),
        ("me.jpg: There is no photo 'me.jpg'; check the path.", "photo-not-there"),
        ("edit.strength is 9.0; it must lie between -3 and 3.", "edit-setting"),
        ("seed is -1: allowed is a whole number from 0", "setting-range"),
        ("gan.pkl asks for os.system, which no checkpoint needs; nothing of it was run.", "generator-file-unsafe"),
        ("ValueError: no (unforeseen; --debug shows where it happened).", "unforeseen"),
        ("The sky is blue.", None),
        ("", None),
    ],
)
def test_a_sentence_finds_its_entry(said: str, anchor: str | None) -> None:
    assert anchor_of(said) == anchor


def test_a_real_error_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "gone.jpg"), "edit=smile"]) == 2
    said = capsys.readouterr().err
    assert main(["explain", *said.split()]) == 0
    out = capsys.readouterr().out
    assert out.startswith("The path of a setting leads nowhere (setting-path)\ncause: A setting that takes a file")
    assert "\nmend:  Check the spelling" in out


def test_an_anchor_is_explained_and_options_in_a_sentence_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "photo-animated"]) == 0
    assert capsys.readouterr().out.startswith("The file is an animation (photo-animated)\n")
    assert main(["explain", "docs/errors.md#photo-animated"]) == 0
    assert capsys.readouterr().out.startswith("The file is an animation (photo-animated)\n")
    assert main(["explain", "--nothing", "--", "-m"]) == 2
    assert main(["explain", "--port is 9, which another program has: give another one, or 0 for any."]) == 0
    assert "(studio-address)" in capsys.readouterr().out


def test_what_is_unknown_is_said_with_a_near_anchor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "photo-animatd"]) == 2
    assert capsys.readouterr().err.endswith("did you mean photo-animated?\n")
    assert main(["explain"]) == 2
    assert "followed by nothing" in capsys.readouterr().err


def test_only_the_beginning_of_a_long_text_is_looked_at() -> None:
    assert explain("a: is " * 20_000 + "There is no photo 'x'; check the path.") is None


SOURCE = """
class OurError(Exception):
    pass

class InnerError(OurError):
    pass

def one(path, why):
    return OurError(f"{path} is bad: {why}")

def two(path):
    hint = f" like {path}"
    if path:
        raise one(path, "too long")
    if not path:
        raise one(path, f"no {path}")
    raise InnerError("first " + (f"a{path}" if path else "b") + hint)

def three(sentence):
    raise OurError(sentence)

def four():
    three("said elsewhere")
    raise ValueError("foreign")

def five():
    raise OurError(long())

def long():
    return "a long one " "in two parts"

def six():
    raise OurError
"""


def test_the_walk_finds_classes_helpers_and_their_texts() -> None:
    module = Module.read("m", SOURCE)
    assert error_classes([module]) == {"OurError": "Exception", "InnerError": "OurError"}
    found = {(site.error, site.skeleton) for site in sites([module])}
    assert found == {
        ("OurError", "{} is bad: too long"),
        ("OurError", "{} is bad: no {}"),
        ("InnerError", "first a{}"),
        ("InnerError", "first b{}"),
        ("OurError", "said elsewhere"),
        ("OurError", "a long one in two parts"),
        ("OurError", ""),
    }
    assert [site.error for site in foreign_raises([module])] == ["ValueError"]


def test_a_new_error_without_an_entry_says_what_to_add() -> None:
    module = Module.read("m", 'def f(x):\n    raise UsageError(f"Zebra {x} flies.")\n')
    (site,) = sites([*MODULES, module])[-1:]
    (told,) = complaints([site])
    assert told.startswith("m:2: UsageError says 'Zebra {} flies.', which no entry covers: add it to the `says` of the")


def test_two_entries_for_one_sentence_are_a_complaint(monkeypatch: pytest.MonkeyPatch) -> None:
    twin = Entry("twin", "Twin", "c", "m", ("There is no photo {}; check the path.",))
    monkeypatch.setattr(error_pages, "entries", lambda: iter([*[e for a in areas() for e in a.entries], twin]))
    site = Site("m", 1, "PhotoError", "There is no photo {}; check the path.")
    assert complaints([site]) == [
        "m:1: 'There is no photo {}; check the path.' is covered by photo-not-there, twin: leave it to one of them"
    ]


def test_usage_errors_of_the_command_are_ours() -> None:
    with pytest.raises(UsageError, match="knows nothing about"):
        error_pages.explain_command(["x" * 1000])
