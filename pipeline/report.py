"""The report of a run: one HTML file that holds its pictures and its video and can be sent to somebody."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Any

from pipeline.report_measures import MeasureTable, measure_tables

STATUS_WORDS = {"done": "finished", "failed": "failed", "interrupted": "was interrupted", "running": "is running"}
METRIC_NAMES = {
    "psnr_invert_db": "PSNR after invert [dB]",
    "psnr_tuned_db": "PSNR after tune [dB]",
    "face_distance_invert": "Face distance after invert",
    "face_distance_tuned": "Face distance after tune",
    "drag_distance_before_px": "Handle to target before the drag [crop px]",
    "drag_distance_after_px": "Handle to target after the drag [crop px]",
}
STAGE_COLUMNS = ("Stage", "Face", "Seconds", "Seconds when computed", "Steps", "How it ended")
STOP_REASONS = {
    "cap": "all steps done",
    "target": "target loss reached",
    "plateau": "no gain any more",
    "diverged": "the loss became NaN again and again; the best state was kept",
    "arrived": "every handle arrived",
    "stalled": "no progress any more",
    "oscillating": "the points swung to and fro",
    "lost": "handles lost",
    "stopped": "stopped by hand",
}


@dataclass(frozen=True, eq=False, slots=True)
class Figure:
    """One picture or video of a report: the encoded file, its media type (`image/png`, `video/mp4`) and a caption.

    wide: whether it takes the page's whole width, as a chart does.
    """

    content: bytes
    media_type: str
    caption: str
    wide: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Comparison:
    """Two pictures of one size that a slider lays over each other."""

    before: Figure
    after: Figure


def render_report(manifest: Mapping[str, Any], comparisons: Sequence[Comparison], figures: Sequence[Figure]) -> str:
    """HTML of a run's manifest and pictures: no file and no address outside itself is referred to."""
    template = Template(resources.files("pipeline").joinpath("templates/report.html").read_text(encoding="utf-8"))
    error = manifest.get("error")
    return template.substitute(
        title=html.escape(str(manifest["title"])),
        subtitle=html.escape(_subtitle(manifest)),
        failure=f'<p class="failure" role="alert">{html.escape(str(error))}</p>' if error else "",
        comparison="".join(_comparison(comparison) for comparison in comparisons),
        pictures=pictures_section(figures),
        tables="".join(_tables(manifest)),
        config=html.escape(json.dumps(manifest["config"], indent=2, ensure_ascii=False)),
    )


def _subtitle(manifest: Mapping[str, Any]) -> str:
    status = STATUS_WORDS.get(str(manifest["status"]), str(manifest["status"]))
    parts = [f"The run {status}", f"started {manifest['started']}"]
    if manifest.get("seconds") is not None:
        parts.append(f"took {manifest['seconds']:.1f} s")
    if manifest.get("peak_memory_bytes"):
        parts.append(f"used at most {manifest['peak_memory_bytes'] / 1e9:.2f} GB of memory")
    return ", ".join(parts) + "."


def _data_address(figure: Figure) -> str:
    return f"data:{figure.media_type};base64,{base64.b64encode(figure.content).decode()}"


def _comparison(comparison: Comparison) -> str:
    before, after = comparison.before, comparison.after
    first, second = html.escape(before.caption), html.escape(after.caption)
    return (
        '<section class="card"><div class="slider">'
        f'<img src="{_data_address(before)}" alt="{first}">'
        f'<img class="after" src="{_data_address(after)}" alt="{second}">'
        f'<span class="tag first">{first}</span><span class="tag second">{second}</span><div class="edge"></div>'
        f'<input type="range" min="0" max="100" step="0.1" value="50" aria-label="Border between {first} and {second}">'
        "</div></section>"
    )


def pictures_section(figures: Sequence[Figure]) -> str:
    """The section of pictures and videos, nothing without any."""
    if not figures:
        return ""
    return f'<h2>Pictures</h2><section class="pictures">{"".join(_figure(figure) for figure in figures)}</section>'


def _figure(figure: Figure) -> str:
    caption = html.escape(figure.caption)
    if figure.media_type.startswith("video/"):
        shown = f'<video src="{_data_address(figure)}" controls loop muted autoplay playsinline aria-label="{caption}">'
        shown += "</video>"
    else:
        shown = f'<img src="{_data_address(figure)}" alt="{caption}" loading="lazy">'
    return f'<figure class="card{" wide" if figure.wide else ""}">{shown}<figcaption>{caption}</figcaption></figure>'


def _tables(manifest: Mapping[str, Any]) -> list[str]:
    stages = [_stage_row(entry) for entry in manifest["stages"]]
    return [
        table("Stages", STAGE_COLUMNS, stages, numbers=(2, 3, 4)),
        table("Measures", ("Measure", *_face_titles(manifest)), _metric_rows(manifest), numbers=range(1, 99)),
        *(_measure_table(found) for found in measure_tables(manifest)),
        table("Files used", ("What", "Which"), _source_rows(manifest)),
        table("Versions", ("Package", "Version"), [(name, value) for name, value in manifest["versions"].items()]),
    ]


def _stage_row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    reason = entry.get("stop_reason")
    ended = f"{reason} ({STOP_REASONS[reason]})" if reason in STOP_REASONS else str(reason or "finished")
    if entry["reused"]:
        ended += "; reused from an earlier run"
    elif entry["resumed"]:
        ended += "; continued from a checkpoint"
    face = "" if entry["face"] is None else str(entry["face"] + 1)
    if entry.get("changed_fraction") is not None:
        ended += f"; {entry['changed_fraction']:.2%} of the photo's pixels changed"
    if entry.get("reencoded") is not None:
        ended += f"; the JPEG was compressed anew as a whole, because {entry['reencoded']}"
    seconds, computed_seconds = f"{entry['seconds']:.2f}", f"{entry['computed_seconds']:.2f}"
    return entry["stage"], face, seconds, computed_seconds, str(entry.get("steps", "")), ended


def _face_titles(manifest: Mapping[str, Any]) -> list[str]:
    count = len(manifest["faces"])
    return [f"Face {number + 1}" for number in range(count)] if count > 1 else ["Value"]


def _metric_rows(manifest: Mapping[str, Any]) -> list[tuple[str, ...]]:
    columns = [face["metrics"] for face in manifest["faces"]]
    names = [name for name in METRIC_NAMES if any(column.get(name) is not None for column in columns)]
    return [(METRIC_NAMES[name], *(_number(column.get(name)) for column in columns)) for name in names]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _source_rows(manifest: Mapping[str, Any]) -> list[tuple[str, ...]]:
    photo, generator, perceptual = manifest["photo"], manifest["generator"], manifest["perceptual"]
    rows = []
    if photo:
        rows.append(("Photo", f"{photo['path']}, {photo['width']} x {photo['height']}, sha256 {photo['sha256'][:16]}"))
    if generator:
        size = generator["resolution"]
        rows.append(("Generator", f"{generator['path']}, {size} x {size}, sha256 {generator['sha256'][:16]}"))
    if perceptual:
        rows.append(("Perceptual distance", f"{perceptual['name']} ({perceptual['reason']})"))
    return [*rows, ("Device", str(manifest["device"])), ("Seed", str(manifest["seeds"]["seed"]))]


def _measure_table(found: MeasureTable) -> str:
    numbers = range(found.texts, len(found.head))
    return table(found.title, found.head, found.rows, numbers) + f'<p class="quiet">{html.escape(found.note)}</p>'


def table(
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str | None]],
    numbers: Sequence[int] = (),
    links: Mapping[tuple[int, int], str] | None = None,
) -> str:
    """A table with its heading, nothing without rows; `numbers` are the right-aligned columns.

    links: for (row, column) the address, already quoted, that its text leads to; with links, words stay whole and a
    table that is too wide scrolls.
    """
    if not rows:
        return ""
    kinds = [' class="number"' if index in numbers else ' class="text"' for index in range(len(head))]
    names = "".join(f"<th{kind}>{html.escape(name)}</th>" for kind, name in zip(kinds, head, strict=True))
    body = ""
    for row_number, row in enumerate(rows):
        texts = [_linked(str(cell), (links or {}).get((row_number, column))) for column, cell in enumerate(row)]
        body += f"<tr>{''.join(f'<td{kind}>{text}</td>' for kind, text in zip(kinds, texts, strict=True))}</tr>"
    whole = "" if links is None else ' class="whole"'
    return (
        f'<h2>{html.escape(title)}</h2><div class="scroll"><table{whole}><thead><tr>{names}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _linked(text: str, address: str | None) -> str:
    return html.escape(text) if address is None else f'<a href="{html.escape(address)}">{html.escape(text)}</a>'
