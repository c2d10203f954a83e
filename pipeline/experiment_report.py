"""The page of an experiment: its table with links to the single runs, summary, sheets and curves."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Any
from urllib.parse import quote

from pipeline.report import METRIC_NAMES, Figure, pictures_section, table

SHEETS_INSIDE = 3
"""Sheets that the page holds itself; further ones are links to the files beside it."""
_LEFT_OUT = frozenset({"sha256", "error", "run", "overrides", "generator_sha256"})
"""Columns of results.csv that the page leaves to it: long ones, and those that it shows in another way."""


@dataclass(frozen=True, eq=False, slots=True)
class SheetPicture:
    """A sheet of pictures: the name of its file in the experiment's folder, and a JPEG of it for the page."""

    name: str
    jpeg: bytes


def render_experiment(
    title: str,
    document: Mapping[str, Any],
    sheets: Sequence[SheetPicture],
    curves: bytes | None,
    videos: Mapping[str, bytes] | None = None,
) -> str:
    """HTML of an experiment's results.json and pictures; only the links to its runs and files lead outside it.

    videos: by their names in the folder, the MP4 files of the ways between faces that share a tuning.
    """
    template = Template(resources.files("pipeline").joinpath("templates/report.html").read_text(encoding="utf-8"))
    figures = [Figure(sheet.jpeg, "image/jpeg", _sheet_caption(sheet), wide=True) for sheet in sheets[:SHEETS_INSIDE]]
    if curves is not None:
        words = "Reconstruction loss at each step: one thin line a face, the median bold"
        figures.insert(0, Figure(curves, "image/png", words, wide=True))
    for name, video in (videos or {}).items():
        words = f"{name}: the tuned generator on the way from face to face"
        figures.append(Figure(video, "video/mp4", words, wide=True))
    settings = {key: document[key] for key in ("given", "overrides", "swept", "skipped", "versions", "written")}
    return template.substitute(
        title=html.escape(title),
        subtitle=html.escape(_subtitle(document)),
        failure=_failures(document["rows"]),
        comparison=_results(document) + _summary(document),
        pictures=pictures_section(figures) + _more(sheets[SHEETS_INSIDE:]),
        tables=_files(),
        config=html.escape(json.dumps(settings, indent=2, ensure_ascii=False)),
    )


def _sheet_caption(sheet: SheetPicture) -> str:
    return f"{sheet.name}: each row's number is that of the table"


def _subtitle(document: Mapping[str, Any]) -> str:
    rows = document["rows"]
    failed = sum(row["status"] != "done" for row in rows)
    parts = [f"{len(rows)} results", f"{failed} failed"]
    parts += [f"{len(document['skipped'])} other files skipped"] if document["skipped"] else []
    overrides = " ".join(document["overrides"])
    return f"{', '.join(parts)}. {overrides}".strip()


def _failures(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        f"{number}. {row['photo']}: {row['error']}" for number, row in enumerate(rows, 1) if row["status"] != "done"
    ]
    return "".join(f'<p class="failure">{html.escape(line)}</p>' for line in lines)


def _results(document: Mapping[str, Any]) -> str:
    rows = document["rows"]
    columns = [name for name in document["columns"] if name not in _LEFT_OUT]
    numbers = [index for index, name in enumerate(columns, 1) if any(_is_number(row.get(name)) for row in rows)]
    head = ["", *(METRIC_NAMES.get(name, name.replace("_", " ")) for name in columns)]
    cells = [[str(number), *(_cell(row.get(name)) for name in columns)] for number, row in enumerate(rows, 1)]
    links = {
        (index, columns.index("photo") + 1): f"{quote(row['run'])}/report.html"
        for index, row in enumerate(rows)
        if row.get("run")
    }
    return table("Results", head, cells, [0, *numbers], links)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _summary(document: Mapping[str, Any]) -> str:
    swept = document["swept"]
    head = [*swept, "Measure", "Mean", "Median", "Standard deviation", "Count"]
    cells = [
        [
            *entry["swept"].values(),
            METRIC_NAMES.get(name, name.replace("_", " ")),
            *(_cell(found[key]) for key in ("mean", "median", "sd", "count")),
        ]
        for entry in document["summary"]
        for name, found in entry["measures"].items()
    ]
    return table("Summary", head, cells, range(len(swept) + 1, len(swept) + 5))


def _more(sheets: Sequence[SheetPicture]) -> str:
    links = [f'<a href="{quote(sheet.name)}">{html.escape(sheet.name)}</a>' for sheet in sheets]
    return f"<p>More sheets: {', '.join(links)}</p>" if links else ""


def _files() -> str:
    names = ("results.csv", "results.json", "summary.csv", "summary.json", "latents/")
    links = ", ".join(f'<a href="{name}">{name}</a>' for name in names)
    return f"<h2>Files</h2><p>Every column and all digits: {links}</p>"
