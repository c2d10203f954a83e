"""The same seed on the same machine gives the same bits: every stage's files, of two processes that share nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kills import fingerprint
from pipeline.artifacts import STAGE_FILE
from tests.runs import CHAIN

ROOT = Path(__file__).resolve().parents[1]
RUNS = """
import sys
from dataclasses import replace
from pathlib import Path
from pipeline.models import Models
from pipeline.run import run
from pipeline.schema import EditConfig, InvertConfig, MeasureConfig, RunConfig, SampleConfig, TuneConfig
from tests.runs import POINTS, short_config

generator, out, models = Path(sys.argv[1]), Path(sys.argv[2]), Models()
drag = EditConfig(points=POINTS, steps=4, lr=0.05, gif=True)
config = short_config(generator, out / "chain", measure=MeasureConfig(metrics=True), edit=drag)
config = replace(config, invert=replace(config.invert, frame_every=3, latent_noise=0.05))
folder = run(config, models=models).run_dir
for edit in (EditConfig(points=[], preset="smile", steps=3), EditConfig(points=[], direction="pca:1", strength=1.0)):
    run(replace(config, stages=["edit", "blend"], from_run=str(folder), photo=None, edit=edit), models=models)
drawn = replace(config, stages=["sample", "edit"], photo=None, out=str(out / "drawn"), sample=SampleConfig(seed=7))
run(replace(drawn, edit=EditConfig(points=[[20, 20, 24, 20]], steps=3)), models=models)
faces = RunConfig(photo=config.photo, out=str(out / "faces"), threads=1, progress=False)
run(replace(
    faces,
    measure=MeasureConfig(metrics=False),
    invert=InvertConfig(steps=8, start="auto"),
    tune=TuneConfig(steps=3),
    edit=EditConfig(points=[], preset="open_mouth", method="landmarks", steps=1, gif=True),
), models=models)
"""
EDITS = 3
"""Edits of the photo: points, a preset, a direction."""


@pytest.fixture(scope="module")
def twice(generator: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The output folders of the same runs in two processes of their own, whose sets and hashes have other orders."""
    folder = tmp_path_factory.mktemp("determinism")
    outs = [folder / name for name in ("first", "second")]
    for number, out in enumerate(outs, 1):
        words = [sys.executable, "-c", RUNS, str(generator), str(out)]
        environment = os.environ | {"PYTHONHASHSEED": str(number)}
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return outs


@pytest.mark.parametrize("stage", [*CHAIN, "measure", "sample"])
def test_each_stage_gives_the_same_bits_in_another_process(twice: list[Path], stage: str) -> None:
    first, second = (fingerprint(out) for out in twice)
    chosen = [name for name in first if Path(name).parts[2] == stage]
    assert len({Path(name).parent for name in chosen}) >= (EDITS + 1 if stage in ("edit", "blend") else 1)
    assert [name for name in chosen if first[name] != second.get(name)] == []
    for name in chosen:
        told = [json.loads((out / Path(name).parent / STAGE_FILE).read_text()) for out in twice]
        assert all(entry.pop("seconds") > 0 for entry in told)
        assert told[0] == told[1]


def test_everything_beside_the_stages_is_the_same_too(twice: list[Path]) -> None:
    first, second = (fingerprint(out) for out in twice)
    assert first == second
    assert {Path(name).suffix for name in first} >= {".png", ".mp4", ".gif", ".npy", ".pt", ".safetensors", ".json"}
    manifests = [json.loads(next(out.glob("faces/*/manifest.json")).read_text()) for out in twice]
    assert _steady(manifests[0]) == _steady(manifests[1])


def _steady(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest without what tells of times, memory and places."""
    times = ("run_id", "started", "seconds", "timings", "peak_memory_bytes", "out")
    if not isinstance(manifest, dict):
        return [_steady(item) for item in manifest] if isinstance(manifest, list) else manifest
    return {key: _steady(value) for key, value in manifest.items() if key not in (*times, "computed_seconds")}
