"""The projection video: frames that change no result, survive a kill, and show the way from start to photo."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.artifacts import Checkpoints, read_tensors
from pipeline.frames import HOLD_FRAMES, read_path
from pipeline.pictures import PAIR_GAP_PX, read_picture
from pipeline.run import run
from pipeline.schema import RunConfig
from pipeline.video import read_video
from tests.runs import manifest_of, run_dir, short_config, stage_entries


def config_of(generator: Path, out: Path, frame_every: int) -> RunConfig:
    config = short_config(generator, out, stages=["align", "invert", "tune"])
    return replace(config, invert=replace(config.invert, frame_every=frame_every))


def stage_of(out: Path, stage: str) -> Path:
    (folder,) = [path for path in (run_dir(out) / stage).iterdir() if not path.name.endswith(".partial")]
    return folder


@pytest.fixture(scope="module")
def filmed(generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run with a frame for every second step."""
    out = tmp_path_factory.mktemp("filmed")
    run(config_of(generator, out, 2))
    return out


def test_frames_change_neither_results_nor_keys(filmed: Path, generator: Path, tmp_path: Path) -> None:
    run(config_of(generator, tmp_path, 0))
    for stage in ("invert", "tune"):
        with_frames, without = stage_of(filmed, stage), stage_of(tmp_path, stage)
        assert with_frames.name == without.name
        assert (with_frames / "tensors.safetensors").read_bytes() == (without / "tensors.safetensors").read_bytes()
        assert (with_frames / "facts.json").read_bytes() == (without / "facts.json").read_bytes()
        assert not (without / "frames.safetensors").exists()
    assert not (run_dir(tmp_path) / "projection.mp4").exists()


def test_frames_are_the_first_and_every_second_step_and_end_near_the_result(filmed: Path) -> None:
    kept = read_tensors(stage_of(filmed, "invert") / "frames.safetensors")
    tensors = read_tensors(stage_of(filmed, "invert") / "tensors.safetensors")
    assert kept["step"].tolist() == [1, 2, 4, 6]
    assert kept["w"].shape == (4, *tensors["w"].shape[1:])
    assert not torch.equal(kept["w"][0], kept["w"][3])
    for stage in ("invert", "tune"):
        folder = stage_of(filmed, stage)
        result = read_picture((folder / "reconstruction.png").read_bytes())[0].astype(int)
        path = read_path(folder, stage, result)
        assert path is not None
        assert path.steps == [1, 2, 4, 6]
        distances = [np.abs(picture - result).mean() for picture in path.pictures]
        assert distances[0] > distances[-1]


def test_the_video_shows_target_and_way_and_is_in_the_report(filmed: Path) -> None:
    folder = run_dir(filmed)
    frames = read_video(folder / "projection.mp4")
    assert len(frames) == 2 * (4 + HOLD_FRAMES)
    assert frames[0].shape[1] == 2 * 256 + PAIR_GAP_PX
    left = [frame[-200:-50, 50:200].astype(int) for frame in frames]
    right = [frame[-200:-50, -200:-50].astype(int) for frame in frames]
    assert np.abs(left[0] - left[-1]).mean() < 3
    assert np.abs(right[0] - right[-1]).mean() > 3
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("data:video/mp4;base64,") == 1
    assert "From the start to the reconstruction" in page
    assert manifest_of(folder)["products"]["projection.mp4"].startswith("tune/")


@pytest.mark.parametrize("stage", ["invert", "tune"])
def test_frames_survive_a_kill(
    stage: str, filmed: Path, generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Checkpoints.save

    def killed(self: Checkpoints, state: Mapping[str, Any]) -> None:
        save(self, state)
        if self.folder.parent.name == stage and int(state["step"]) == 4:
            raise KeyboardInterrupt

    config = config_of(generator, tmp_path, 2)
    monkeypatch.setattr(Checkpoints, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.setattr(Checkpoints, "save", save)
    run(config)
    assert manifest_of(run_dir(tmp_path))["stages"][-2 if stage == "invert" else -1]["resumed"]
    for name in ("invert", "tune"):
        for file in ("frames.safetensors", "tensors.safetensors"):
            assert (stage_of(tmp_path, name) / file).read_bytes() == (stage_of(filmed, name) / file).read_bytes()


def test_an_inversion_made_without_frames_is_reused_and_says_so(
    out: Path, generator: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(config_of(generator, out, 2))
    run(config)
    assert stage_entries(run_dir(out)) == [("align", True), ("invert", True), ("tune", True)]
    warned = capsys.readouterr().err
    assert "warning: invert.frame_every is 2, but the inversion was computed before without frames" in warned
    run(replace(config, resume=False))
    assert (run_dir(out) / "projection.mp4").is_file()
