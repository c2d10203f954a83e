"""Short runs on a tiny generator, for the tests of the run machinery."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.schema import (
    EditConfig,
    GeneratorConfig,
    InvertConfig,
    InvertWeights,
    MeasureConfig,
    RunConfig,
    TuneConfig,
    TuneWeights,
)

PHOTO = Path(__file__).resolve().parents[1] / "data" / "samples" / "astronaut.png"
CHAIN = ["align", "invert", "tune", "edit", "blend"]
POINTS = [[220.0, 130.0, 235.0, 130.0]]
"""A drag inside the sample photo's face crop that moves the tiny generator's picture."""


def short_config(generator_file: Path, out_folder: Path, **changes: Any) -> RunConfig:
    """The whole chain on the sample photo in about a second: few steps, no perceptual term, no measures, one thread."""
    config = RunConfig(
        photo=str(PHOTO),
        out=str(out_folder),
        threads=1,
        progress=False,
        generator=GeneratorConfig(name="file", path=str(generator_file)),
        invert=InvertConfig(
            steps=6,
            start_samples=4,
            w_stats_samples=50,
            checkpoint_every=2,
            weights=InvertWeights(perceptual=0.0),
        ),
        tune=TuneConfig(steps=6, checkpoint_every=2, weights=TuneWeights(perceptual=0.0)),
        edit=EditConfig(points=POINTS, steps=8, lr=0.05),
        measure=MeasureConfig(metrics=False),
    )
    return replace(config, **changes)


def manifest_of(folder: Path) -> dict[str, Any]:
    """The newest manifest of a run folder."""
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def stage_entries(folder: Path) -> list[tuple[str, bool]]:
    """(stage, reused) of the newest run, in order."""
    return [(entry["stage"], entry["reused"]) for entry in manifest_of(folder)["stages"]]


def run_dir(out_folder: Path) -> Path:
    """The only run folder of an output folder."""
    (folder,) = out_folder.iterdir()
    return folder
