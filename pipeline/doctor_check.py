"""One row of the doctor's table, and its forms for people and for programs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from pipeline import __version__

Status = Literal["ok", "optional", "missing"]

JSON_VERSION = 1
"""Grows when a field or a name of the JSON goes or changes its meaning; new fields and checks do not count."""


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the table; `gives` and `mend` are shown when the part is not there."""

    name: str
    status: Status
    found: str
    gives: str = ""
    mend: str = ""


def format_check(check: Check) -> str:
    """One row, and below it what a part that is not there would give and the command that brings it."""
    lines = [f"{check.status:<9} {check.name:<22} {check.found}"]
    if check.status != "ok":
        indent = " " * 33
        if check.gives:
            lines += textwrap.wrap(f"gives: {check.gives}", 110, initial_indent=indent, subsequent_indent=indent)
        if check.mend:
            lines.append(f"{indent}get it: {check.mend}")
    return "\n".join(lines)


def checks_json(checks: Iterable[Check]) -> str:
    """All rows as JSON in plain ASCII.

    `photodrag_doctor` is the format's version, `photodrag` the program's, `ok` whether nothing is missing that the main
    job needs, and `checks` a list of objects with name, status, found, gives and mend.
    """
    rows = list(checks)
    ok = all(row.status != "missing" for row in rows)
    told = {
        "photodrag_doctor": JSON_VERSION,
        "photodrag": __version__,
        "ok": ok,
        "checks": [asdict(row) for row in rows],
    }
    return json.dumps(told, indent=1)
