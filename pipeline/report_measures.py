"""The report's tables of a face's reconstruction: how near pivot and tuned picture came, and what presets moved."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.schema import PRESETS

STAGES = ("invert", "tuned")
LIKENESS_COLUMNS = ("Measure", "Where", "Pivot", "Tuned")
EDITABILITY_COLUMNS = ("Preset", "Share of the move that dlib sees", "Face distance between before and after")
REGIONS = ("face", "background", "border", "whole")
NETWORK_MEASURES = {
    "lpips_alex_256": ("LPIPS (alex) at 256 px", "whole", ""),
    "lpips_vgg_256": ("LPIPS (vgg) at 256 px", "whole", ""),
    "face_features": ("Face feature distance", "whole", ""),
    "face_distance": ("Face descriptor distance", "face", ""),
    "landmarks": ("Landmark error [% of the distance between the eyes]", "face", "_percent"),
}
"""Beginning of a figure's name: what the table calls it, the region that it looks at, and the name's ending."""
LIKENESS_NOTE = (
    "Pivot: the picture that inversion found; tuned: after pivotal tuning. Higher PSNR and SSIM are better, lower "
    "distances are. Measures marked with * use the network that the loss used, so they flatter. "
    "Pictures below 256 px are enlarged to it with the crop: detail that they cannot hold is not missed."
)
EDITABILITY_NOTE = "The reconstruction dragged by each preset with the default settings; 1 is all of the move."


@dataclass(frozen=True, eq=False, slots=True)
class MeasureTable:
    """A table with the sentence under it; its first `texts` columns hold words, the others numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int
    note: str


def measure_tables(manifest: Mapping[str, Any]) -> list[MeasureTable]:
    """The tables of every face that was measured."""
    faces = manifest["faces"]
    tables = []
    for number, face in enumerate(faces):
        whose = f", face {number + 1}" if len(faces) > 1 else ""
        tables += _face_tables(face["metrics"], whose, _shared(manifest, number), (manifest["generator"] or {}))
    return tables


def _shared(manifest: Mapping[str, Any], number: int) -> Collection[str]:
    entries = [entry for entry in manifest["stages"] if entry["stage"] == "measure" and entry["face"] == number]
    return entries[-1]["shared_with_loss"] if entries else ()


def _face_tables(
    metrics: Mapping[str, Any], whose: str, shared: Collection[str], generator: Mapping[str, Any]
) -> list[MeasureTable]:
    tables = []
    if any(f"psnr_whole_native_{stage}_db" in metrics for stage in STAGES):
        rows = _likeness_rows(metrics, shared, int(generator["resolution"]))
        tables.append(MeasureTable(f"Likeness to the photo{whose}", LIKENESS_COLUMNS, rows, 2, LIKENESS_NOTE))
    for stage in STAGES:
        if (success := metrics.get(f"editability_success_{stage}")) is not None:
            note = f"{EDITABILITY_NOTE} {success:.0%} of the presets left one face and made 0.6 of their move or more."
            rows = _editability_rows(metrics, stage)
            tables.append(MeasureTable(f"Editability{whose}", EDITABILITY_COLUMNS, rows, 1, note))
    return tables


def _likeness_rows(metrics: Mapping[str, Any], shared: Collection[str], native_px: int) -> list[tuple[str, ...]]:
    sizes = {"256": "at 256 px"} | ({} if native_px == 256 else {"native": f"at {native_px} px (native)"})
    asked = []
    for size, where in sizes.items():
        asked += [(f"PSNR {where} [dB]", region, f"psnr_{region}_{size}", "_db") for region in REGIONS]
        asked += [(f"SSIM {where}", region, f"ssim_{region}_{size}", "") for region in REGIONS]
        asked.append((f"MS-SSIM {where}", "whole", f"ms_ssim_{size}", ""))
    for name, (title, region, unit) in NETWORK_MEASURES.items():
        mark = " *" if name.removesuffix("_256") in shared else ""
        asked.append((title + mark, region, name, unit))
    rows = [
        (title, region, [metrics.get(f"{name}_{stage}{unit}") for stage in STAGES])
        for title, region, name, unit in asked
    ]
    return [(title, region, *map(_figure, found)) for title, region, found in rows if found != [None, None]]


def _editability_rows(metrics: Mapping[str, Any], stage: str) -> list[tuple[str, ...]]:
    names = [name for name in PRESETS if f"editability_moved_{name}_{stage}" in metrics]
    rows = [(name, f"{name}_{stage}") for name in names] + [("mean", stage)]
    return [
        (
            title,
            *(
                _figure(metrics.get(f"editability_{what}_{end}"), "no single face")
                for what in ("moved", "face_distance")
            ),
        )
        for title, end in rows
    ]


def _figure(value: float | None, absent: str = "") -> str:
    return absent if value is None else f"{value:.3f}"
