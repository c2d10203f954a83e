"""Runs that continue others: from_run, killed and interrupted runs, full disks, folders in use."""

from __future__ import annotations

import errno
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from data.errors import ModelError, OutputError, UsageError
from pipeline import artifacts
from pipeline.artifacts import read_tensors
from pipeline.locks import run_lock
from pipeline.run import run
from pipeline.schema import (
    BlendConfig,
    EditConfig,
    RunConfig,
)
from tests.runs import CHAIN, POINTS, manifest_of, run_dir, short_config, stage_entries

ROOT = Path(__file__).resolve().parents[1]


def test_from_run_needs_neither_photo_nor_generator_setting(out: Path, tmp_path: Path) -> None:
    folder = run_dir(out)
    edit = EditConfig(points=[[225, 120, 225, 140]], steps=4, lr=0.05)
    config = RunConfig(stages=["edit", "blend"], from_run=str(folder), edit=edit, threads=1, progress=False)
    outcome = run(replace(config, out=str(tmp_path / "elsewhere")))
    assert outcome.results == [folder / "result.png"]
    assert [stage for stage, reused in stage_entries(folder) if not reused] == ["edit", "blend"]
    assert not (tmp_path / "elsewhere").exists()
    assert manifest_of(folder)["perceptual"]["name"] == "face"
    again = run(replace(config, stages=["blend"], blend=BlendConfig(feather=0.1)))
    assert again.run_dir == folder
    assert stage_entries(folder)[-2:] == [("edit", True), ("blend", False)]


def test_from_run_can_be_continued_after_a_failed_attempt(out: Path) -> None:
    folder = run_dir(out)
    config = RunConfig(stages=["edit", "blend"], from_run=str(folder), threads=1, progress=False)
    with pytest.raises(UsageError, match=r"The handle \(5, 5\) of edit.points lies outside the crop"):
        run(replace(config, edit=EditConfig(points=[[5, 5, 6, 6]])))
    assert manifest_of(folder)["status"] == "failed"
    run(replace(config, edit=EditConfig(points=POINTS, steps=8, lr=0.05)))
    assert all(reused for _, reused in stage_entries(folder))


def test_edits_drawn_in_bfloat16_are_computed_anew_and_exact_ones_are_not(out: Path) -> None:
    folder = run_dir(out)
    edit = EditConfig(points=POINTS, steps=8, lr=0.05)
    config = RunConfig(stages=["edit", "blend"], from_run=str(folder), edit=edit, threads=1, progress=False)
    run(replace(config, speed="exact"))
    assert all(reused for _, reused in stage_entries(folder))
    exact = cv2.imread(str(folder / "edited.png")).astype(float)
    run(replace(config, speed="fast"))
    assert stage_entries(folder)[-2:] == [("edit", False), ("blend", False)]
    fast = cv2.imread(str(folder / "edited.png")).astype(float)
    assert 0 < np.abs(fast - exact).mean() < 3
    run(replace(config, speed="fast"))
    assert all(reused for _, reused in stage_entries(folder)[-2:])


def test_missing_stage_names_the_command_that_makes_it(generator: Path, tmp_path: Path) -> None:
    run(short_config(generator, tmp_path, stages=["align"]))
    folder = run_dir(tmp_path)
    config = short_config(generator, tmp_path, stages=["edit", "blend"], from_run=str(folder))
    with pytest.raises(UsageError) as caught:
        run(config)
    assert str(caught.value) == (
        f"The run {folder} has no finished invert stage, which stages=[edit,blend] needs: make it with "
        f"`photodrag run from={folder} 'stages=[invert,tune,edit,blend]'`."
    )
    run(replace(config, stages=["invert", "tune", "edit", "blend"], photo=None))
    assert [stage for stage, reused in stage_entries(folder) if reused] == ["align"]


def test_from_run_refuses_another_photo_and_a_changed_generator(out: Path, tmp_path: Path) -> None:
    folder = run_dir(out)
    other = tmp_path / "other.png"
    cv2.imwrite(str(other), np.zeros((512, 512, 3), np.uint8))
    config = RunConfig(stages=["blend"], from_run=str(folder), photo=str(other), progress=False)
    with pytest.raises(UsageError, match=r"other\.png is not the photo that the run"):
        run(config)
    manifest = manifest_of(folder)
    manifest["generator"]["path"] = str(tmp_path / "gone.safetensors")
    artifacts.write_json(folder / "manifest.json", manifest)
    with pytest.raises(ModelError, match=r"The generator of the run .* is not there any more: give its file with"):
        run(replace(config, photo=None))


def test_from_run_of_something_else_is_one_sentence(tmp_path: Path) -> None:
    config = RunConfig(stages=["edit"], from_run=str(tmp_path), edit=EditConfig(points=POINTS), progress=False)
    with pytest.raises(UsageError, match=r"is not a run folder \(no readable manifest.json in it\)"):
        run(config)


def test_folder_in_use_is_one_sentence(out: Path, generator: Path) -> None:
    with run_lock(run_dir(out)), pytest.raises(UsageError, match=r"The run folder .* is in use by process"):
        run(short_config(generator, out))


def test_unwritable_output_is_one_sentence(generator: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="choose a folder that you may write to with out=DIR"):
        run(short_config(generator, tmp_path / "file"))


def test_full_disk_keeps_finished_stages(generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import outputs

    def full(*_: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "write_video", full)
        with pytest.raises(OutputError, match="No space is left on the disk"):
            run(short_config(generator, tmp_path))
    folder = run_dir(tmp_path)
    assert manifest_of(folder)["status"] == "failed"
    assert list((folder / "edit").iterdir()) == []
    run(short_config(generator, tmp_path))
    expected = [("align", True), ("invert", True), ("tune", True), ("edit", False), ("blend", False)]
    assert stage_entries(folder) == expected


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.artifacts import Checkpoints
from pipeline.run import run
from tests.runs import short_config

generator, out, stage, how = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
real, saves = Checkpoints.save, []

def save(self, state):
    real(self, state)
    if stage in str(self.folder):
        saves.append(state)
        if len(saves) == 2:
            os.kill(os.getpid(), getattr(signal, how))

Checkpoints.save = save
run(short_config(generator, out))
"""


@pytest.mark.parametrize(("stage", "how"), [("invert", "SIGKILL"), ("tune", "SIGKILL"), ("tune", "SIGINT")])
def test_killed_run_continues_inside_the_optimisation_to_the_same_bits(
    out: Path, generator: Path, tmp_path: Path, stage: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [sys.executable, "-c", KILLED, str(generator), str(tmp_path / "killed"), stage, how]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    folder, whole = run_dir(tmp_path / "killed"), run_dir(out)
    assert manifest_of(folder)["status"] == ("running" if how == "SIGKILL" else "interrupted")
    assert len(list((folder / stage).glob("*.partial"))) == 1
    run(short_config(generator, tmp_path / "killed"))
    assert f"{stage}: continuing from its last checkpoint" in capsys.readouterr().out
    resumed = {entry["stage"]: entry["resumed"] for entry in manifest_of(folder)["stages"]}
    assert resumed == {name: name == stage for name in CHAIN}
    assert list((folder / stage).glob("*.partial")) == []
    for name in ("invert", "tune", "edit"):
        (continued,), (unbroken,) = (list((where / name).iterdir()) for where in (folder, whole))
        assert continued.name == unbroken.name
        first, second = (read_tensors(stored / "tensors.safetensors") for stored in (continued, unbroken))
        assert all(torch.equal(first[key], second[key]) for key in second)
    assert (folder / "result.png").read_bytes() == (whole / "result.png").read_bytes()
