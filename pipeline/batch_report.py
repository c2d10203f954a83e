"""What a batch leaves for people: tables of the measures, a contact sheet in pages, what failed, a summary in JSON."""

from __future__ import annotations

import html
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from pipeline.artifacts import remove_file, write_bytes, write_json
from pipeline.batch_run import ERRORS, MISSING, PhotoEnd, error_line, thumbnail
from pipeline.errors import EXIT_DONE, EXIT_FAILED
from pipeline.executors.protocol import DONE, FAILED
from pipeline.experiment import RESULTS_CSV, SUMMARY_CSV, Experiment, write_tables
from pipeline.folders import shown
from pipeline.report import METRIC_NAMES
from pipeline.table import FaceResult

REPORT, SUMMARY = "report.html", "batch.json"
FIGURES = ("psnr_invert_db", "psnr_tuned_db", "face_distance_tuned", "landmarks_tuned_percent", "edit_steps")
"""Of a photo's measures those that the contact sheet shows; results.csv has them all."""

MOST_LINKS, NEAR_LINKS = 60, 5
"""With more pages than the first, each page links to so many on either side of it, and to some far away."""


@dataclass(frozen=True, eq=False, slots=True)
class BatchFacts:
    """What the pages say of a batch as a whole.

    folder: the batch's, with the small pictures; own: where this part of it writes. given, overrides: of the command.
    shard: as in `3/8`. skipped: how many files were no photos, by what they are. page_photos: on each page. complete:
    False of a batch that was stopped. seconds: of this call, in which `computed` photos were computed.
    """

    folder: Path
    own: Path
    given: Sequence[str]
    overrides: Sequence[str]
    shard: str | None
    skipped: Counter[str]
    page_photos: int
    complete: bool
    seconds: float
    computed: int
    workers: int
    threads: int


def write_batch(facts: BatchFacts, ends: Sequence[PhotoEnd]) -> dict[str, Any]:
    """Write tables, errors.jsonl, contact sheet and batch.json of how photos ended; returns what batch.json says."""
    skipped = [f"{count} {kind}" for kind, count in facts.skipped.items()]
    experiment = Experiment(facts.own, [shown(word) for word in facts.given], list(facts.overrides), [], skipped)
    write_tables(experiment, [FaceResult(row, {}, None, end.run) for end in ends for row in end.rows], facts.complete)
    lines = "".join(f"{error_line(end)}\n" for end in ends if end.status == FAILED)
    write_bytes(facts.own / ERRORS, lines.encode("utf-8", "backslashreplace"))
    summary = _summary(facts, ends)
    pages = [ends[first : first + facts.page_photos] for first in range(0, len(ends), facts.page_photos)]
    pages = pages or [[]]
    links = [_page_link(facts, number, page) for number, page in enumerate(pages, 1)]
    for number, page in enumerate(pages, 1):
        text = _page(facts, summary, _navigation(links, number), number, page)
        write_bytes(facts.own / page_name(number), text.encode("utf-8", "backslashreplace"))
    kept = {page_name(number) for number in range(1, len(pages) + 1)}
    for old in facts.own.glob("report*.html"):
        if old.name not in kept:
            remove_file(old)
    write_json(facts.own / SUMMARY, summary)
    return summary


def page_name(number: int) -> str:
    """The file of a page of the contact sheet, from 1."""
    return REPORT if number == 1 else f"report_{number}.html"


def _summary(facts: BatchFacts, ends: Sequence[PhotoEnd]) -> dict[str, Any]:
    counts = Counter(end.status for end in ends)
    failed = [end for end in ends if end.status == FAILED]
    return {
        "photodrag_batch": 1,
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "complete": facts.complete,
        "photos": len(ends),
        "done": counts[DONE],
        "failed": counts[FAILED],
        "missing": counts[MISSING],
        "computed": facts.computed,
        "saved": sum(end.saved is not None for end in ends),
        "seconds": round(facts.seconds, 3),
        "photos_per_s": round(facts.computed / facts.seconds, 6) if facts.computed and facts.seconds else None,
        "workers": facts.workers,
        "threads": facts.threads,
        "shard": facts.shard,
        "given": [shown(word) for word in facts.given],
        "overrides": list(facts.overrides),
        "skipped": dict(facts.skipped),
        "failures_by_stage": dict(Counter(end.stage or "unknown" for end in failed)),
        "failures_by_kind": dict(Counter(end.kind or "unknown" for end in failed)),
        "exit_code": EXIT_FAILED if failed or counts[MISSING] else EXIT_DONE,
    }


def _page(
    facts: BatchFacts,
    summary: dict[str, Any],
    navigation: str,
    number: int,
    page: Sequence[PhotoEnd],
) -> str:
    template = Template(resources.files("pipeline").joinpath("templates/batch.html").read_text(encoding="utf-8"))
    first = (number - 1) * facts.page_photos
    counts = [f"{summary['photos']} photos", f"{summary['done']} done", f"{summary['failed']} failed"]
    counts += [f"{summary['missing']} not reached"] if summary["missing"] else []
    counts += [f"part {facts.shard}"] if facts.shard else []
    names = (RESULTS_CSV, SUMMARY_CSV, ERRORS, SUMMARY)
    return template.substitute(
        title=html.escape(facts.folder.name),
        subtitle=html.escape(f"{', '.join(counts)}. Written {summary['written']}."),
        recipe=html.escape(" ".join(facts.overrides)),
        files="Every figure: " + ", ".join(f'<a href="{name}">{name}</a>' for name in names),
        pages=navigation,
        photos="\n".join(_cards(facts, page, first)),
    )


def _page_link(facts: BatchFacts, number: int, page: Sequence[PhotoEnd]) -> tuple[str, str]:
    """(file, text) of a page: which photos it shows, and how many of them failed."""
    first = (number - 1) * facts.page_photos + 1
    failed = sum(end.status == FAILED for end in page)
    bad = f' <span class="bad">({failed} failed)</span>' if failed else ""
    return page_name(number), f"{first}&ndash;{first + len(page) - 1}{bad}"


def _navigation(links: Sequence[tuple[str, str]], here: int) -> str:
    """The way to the other pages: to all, or where they are too many to the nearest and to each tenth part of all."""
    if len(links) < 2:
        return ""
    every = max(1, len(links) // 10)
    numbers = {1, here, len(links), *range(every, len(links) + 1, every)}
    numbers |= set(range(max(1, here - NEAR_LINKS), min(len(links), here + NEAR_LINKS) + 1))
    if len(links) <= MOST_LINKS:
        numbers = set(range(1, len(links) + 1))
    shown_links = []
    for number in sorted(numbers):
        file, text = links[number - 1]
        shown_links.append(f"<b>{text}</b>" if number == here else f'<a href="{file}">{text}</a>')
    return f"<nav>{' '.join(shown_links)}</nav>"


def _cards(facts: BatchFacts, page: Sequence[PhotoEnd], first: int) -> Iterator[str]:
    for number, end in enumerate(page, first + 1):
        failed = end.status == FAILED
        parts = [f'<figure class="photo{" failed" if failed else ""}" id="photo{number}">', _pair(facts, end)]
        parts.append(f"<h2>{number}. {html.escape(shown(end.photo.name))}</h2>")
        if failed:
            stage = f"{end.stage}: " if end.stage else ""
            parts.append(f'<p class="bad">{html.escape(f"{stage}{end.error}")}</p>')
        if end.status == MISSING:
            parts.append('<p class="quiet">not reached; the same command goes on</p>')
        parts.append(_links(facts, end))
        parts += [_figures(row, len(end.rows)) for row in end.rows]
        yield "".join([*parts, "</figure>"])


def _pair(facts: BatchFacts, end: PhotoEnd) -> str:
    """The small pictures that there are."""
    found = []
    for name in ("before", "after"):
        path = None if end.key is None else facts.folder / thumbnail(end.key, name)
        if path is not None and path.is_file():
            found.append(f'<img src="{_href(facts, path)}" alt="{name}" title="{name}" loading="lazy">')
    if not found:
        return '<div class="pair one"><span class="none">no picture</span></div>'
    return f'<div class="pair{" one" if len(found) == 1 else ""}">{"".join(found)}</div>'


def _links(facts: BatchFacts, end: PhotoEnd) -> str:
    places = []
    if end.saved is not None:
        places.append(("result", end.saved))
    elif end.run is not None and end.result is not None:
        places.append(("result", end.run / end.result))
    if end.run is not None and (end.run / "report.html").is_file():
        places.append(("report", end.run / "report.html"))
    links = [f'<a href="{_href(facts, path)}">{word}</a>' for word, path in places]
    return f"<p>{', '.join(links)}</p>" if links else ""


def _href(facts: BatchFacts, path: Path) -> str:
    """A path as a page of this part reaches it, any bytes of a name kept."""
    return quote(os.fsencode(Path(os.path.relpath(path, facts.own)).as_posix()))


def _figures(row: Mapping[str, Any], faces: int) -> str:
    if row["status"] != "done":
        return ""
    told = [("face", str(row["face"]))] if faces > 1 else []
    for name in FIGURES:
        value = row.get(name)
        if value is not None:
            text = f"{value:.2f}" if isinstance(value, float) else str(value)
            told.append((METRIC_NAMES.get(name, name.replace("_", " ")), text))
    seconds = sum(value for name, value in row.items() if name.endswith("_seconds") and isinstance(value, (int, float)))
    told += [("seconds of computing", f"{seconds:.1f}")] if seconds else []
    cells = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in told)
    return f"<dl>{cells}</dl>" if cells else ""
