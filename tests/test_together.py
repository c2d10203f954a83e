"""Several faces at once: inversions side by side, one tuning for several photos, and the way between them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from data.files import file_sha256
from inversion.generators.checkpoint import load_generator
from inversion.generators.weights import expand, shapes_of
from inversion.losses import Counting
from inversion.pivotal import apply_delta
from inversion.projector import Inversion
from pipeline import cli, together
from pipeline.artifacts import Checkpoints, StageStore, read_tensors
from pipeline.batch import Batch
from pipeline.between import between_frames, mixed_noise, smooth_step
from pipeline.outputs import INVERT, stored_factors
from pipeline.pictures import enlarged, image_u8
from pipeline.run import run
from pipeline.schema import AlignConfig, EditConfig, RunConfig
from pipeline.table import FaceResult, JobValues
from pipeline.together import stacked
from pipeline.video import read_video
from tests.runs import PHOTO, manifest_of, short_config, stage_entries
from tests.test_folder import experiment_of, results_of, settings

FITTED = ["align", "invert", "tune"]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample photo, shifted and brightened copies of it, and a picture that is broken."""
    folder = tmp_path_factory.mktemp("given")
    small = cv2.resize(cv2.imread(str(PHOTO)), (256, 256), interpolation=cv2.INTER_AREA)
    shifted = np.roll(small, 12, axis=1)
    bright = np.clip(small.astype(np.float32) * 1.3, 0, 255).astype(np.uint8)
    for name, picture in (("a", small), ("b", shifted), ("c", bright)):
        cv2.imwrite(str(folder / f"{name}.png"), picture)
    (folder / "broken.jpg").write_bytes(PHOTO.read_bytes()[:900])
    return folder


def photos_of(folder: Path, names: str) -> list[Path]:
    return [folder / ("broken.jpg" if name == "x" else f"{name}.png") for name in names]


def config_of(generator: Path, out: Path, batch: int = 1, shared: bool = False, **changes: Any) -> RunConfig:
    """The start of the chain on crops that take no time to find."""
    config = short_config(generator, out, **{"stages": FITTED, "align": AlignConfig(method="center"), **changes})
    invert, tune = replace(config.invert, batch=batch), replace(config.tune, shared=shared)
    return replace(config, invert=invert, tune=tune)


def run_photos(config: RunConfig, photos: list[Path]) -> list[FaceResult]:
    return Batch().run_photos(config, photos, None, JobValues())


def inversion_of(result: FaceResult) -> Inversion:
    assert result.store is not None
    return INVERT.load(StageStore(result.store).folder("invert", result.keys["invert"])).inversion


def tune_folder(result: FaceResult) -> Path:
    assert result.store is not None
    return StageStore(result.store).folder("tune", result.keys["tune"])


def stage_bytes(out: Path) -> dict[str, bytes]:
    """The tensors of every finished inversion and tuning below a folder."""
    return {str(path.relative_to(out)): path.read_bytes() for path in out.glob("*/*/*/tensors.safetensors")}


def test_photos_side_by_side_are_inverted_as_alone_and_reused_afterwards(
    generator: Path, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, sizes = photos_of(given, "abc"), []
    real = together.project_batch
    monkeypatch.setattr(
        together, "project_batch", lambda *given, **more: sizes.append(len(given[1])) or real(*given, **more)
    )
    alone = run_photos(config_of(generator, tmp_path / "alone"), photos)
    assert sizes == []
    config = config_of(generator, tmp_path / "batch", batch=2)
    batched = run_photos(config, photos)
    assert sizes == [2]
    assert "invert: 2 faces side by side" in capsys.readouterr().out
    for one, other in zip(alone, batched, strict=True):
        assert (one.failed, other.failed) == (False, False)
        assert one.keys["align"] == other.keys["align"] and one.keys["invert"] != other.keys["invert"]
        first, second = inversion_of(one), inversion_of(other)
        assert torch.allclose(first.w, second.w, atol=2e-3)
        assert torch.allclose(first.image, second.image, atol=5e-3)
        assert first.history["loss"] == pytest.approx(second.history["loss"], rel=1e-3)
        assert not any(entry["reused"] for entry in other.manifest["stages"])
    again = run_photos(config, photos)
    assert sizes == [2]
    assert all(entry["reused"] for result in again for entry in result.manifest["stages"])
    run_photos(replace(config, resume=False), photos)
    assert sizes == [2, 2]


def test_every_face_of_a_photo_is_inverted_side_by_side_with_its_mask(
    generator: Path, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (cv2.imread(str(path)) for path in photos_of(given, "ac"))
    cv2.imwrite(str(tmp_path / "two.png"), np.hstack([first, second]))
    sizes: list[int] = []
    real = together.project_batch
    monkeypatch.setattr(
        together, "project_batch", lambda *given, **more: sizes.append(len(given[1])) or real(*given, **more)
    )
    found = {}
    for batch in (1, 4):
        config = config_of(generator, tmp_path / str(batch), batch, align=AlignConfig(face="all"))
        config = replace(config, photo=str(tmp_path / "two.png"))
        config = replace(config, invert=replace(config.invert, mask="face", focus=3.0, frame_every=3))
        outcome = run(config)
        store = StageStore(outcome.run_dir)
        folders = [store.folder("invert", face["keys"]["invert"]) for face in outcome.manifest["faces"]]
        found[batch] = [INVERT.load(folder) for folder in folders]
        assert [entry["reused"] for entry in outcome.manifest["stages"]] == [False] * 5
        frames = [read_tensors(folder / "frames.safetensors") for folder in folders]
        assert [frame["step"].tolist() for frame in frames] == [[1, 3, 6]] * 2
        assert not torch.equal(frames[0]["w"], frames[1]["w"])
        assert (outcome.run_dir / "projection_face2.mp4").is_file()
    assert sizes == [2]
    for one, other in zip(found[1], found[4], strict=True):
        assert torch.allclose(one.inversion.image, other.inversion.image, atol=5e-3)
        assert torch.equal(one.counting.mask, other.counting.mask)
        assert torch.equal(one.counting.focus, other.counting.focus)
        assert one.measured["psnr_invert_db"] == pytest.approx(other.measured["psnr_invert_db"], abs=0.05)


def killed_at(monkeypatch: pytest.MonkeyPatch, saves: int) -> None:
    """The process ends as a checkpoint is written, for the `saves`-th time."""
    real, done = Checkpoints.save, []

    def save(self: Checkpoints, state: Mapping[str, Any]) -> None:
        real(self, state)
        done.append(1)
        if len(done) == saves:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", save)


@pytest.mark.parametrize("saves", [1, 2, 5])
def test_a_kill_in_a_batch_or_a_shared_tuning_changes_no_bit(
    generator: Path, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: int
) -> None:
    photos = photos_of(given, "ab")
    whole = config_of(generator, tmp_path / "whole", batch=2, shared=True)
    run_photos(whole, photos)
    config = replace(whole, out=str(tmp_path / "cut"))
    with monkeypatch.context() as patch:
        killed_at(patch, saves)
        with pytest.raises(KeyboardInterrupt):
            run_photos(config, photos)
    assert list((tmp_path / "cut").glob("*/*/*.partial"))
    results = run_photos(config, photos)
    assert any(entry["resumed"] for result in results for entry in result.manifest["stages"])
    assert stage_bytes(tmp_path / "cut") == stage_bytes(tmp_path / "whole")
    assert len(stage_bytes(tmp_path / "cut")) == 6
    assert not list((tmp_path / "cut").glob("*/*/*.partial"))


def test_a_batch_that_was_stored_in_part_is_completed_to_the_same_bits(
    generator: Path, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, stages = photos_of(given, "abc"), ["align", "invert"]
    whole = config_of(generator, tmp_path / "whole", batch=3, stages=stages)
    run_photos(whole, photos)
    config = replace(whole, out=str(tmp_path / "cut"))
    with monkeypatch.context() as patch:
        real, stored = together.Engine.put, []

        def put(self: Any, spec: Any, *given: Any) -> None:
            if spec.name == "invert" and stored:
                raise KeyboardInterrupt
            real(self, spec, *given)
            stored.extend([1] if spec.name == "invert" else [])

        patch.setattr(together.Engine, "put", put)
        with pytest.raises(KeyboardInterrupt):
            run_photos(config, photos)
    assert len(list((tmp_path / "cut").glob("*/invert/*/tensors.safetensors"))) == 1
    run_photos(config, photos)
    assert stage_bytes(tmp_path / "cut") == stage_bytes(tmp_path / "whole")


def test_photos_share_one_generator_and_each_comes_nearer(generator: Path, given: Path, tmp_path: Path) -> None:
    photos = photos_of(given, "axc")
    config = config_of(generator, tmp_path / "out", shared=True)
    results = run_photos(config, photos)
    assert [result.failed for result in results] == [False, True, False]
    first, _, last = results
    one, other = (read_tensors(tune_folder(result) / "tensors.safetensors") for result in (first, last))
    assert stored_factors(one).keys() == stored_factors(other).keys() != set()
    assert all(torch.equal(value, stored_factors(other)[name]) for name, value in stored_factors(one).items())
    assert not torch.equal(one["image"], other["image"])
    assert first.keys["tune"] != last.keys["tune"]
    for result in (first, last):
        assert result.row["psnr_tuned_db"] > result.row["psnr_invert_db"]
        assert not any(entry["reused"] for entry in result.manifest["stages"])
    alone = run_photos(config_of(generator, tmp_path / "out"), photos[:1])[0]
    assert alone.keys["invert"] == first.keys["invert"]
    assert alone.keys["tune"] != first.keys["tune"]
    again = run_photos(config, photos)
    assert all(entry["reused"] for result in (again[0], again[2]) for entry in result.manifest["stages"])
    assert [result.keys for result in again] == [result.keys for result in results]


def test_another_set_or_order_of_photos_is_another_tuning(generator: Path, given: Path, tmp_path: Path) -> None:
    config = config_of(generator, tmp_path, shared=True)
    two, turned, three = (run_photos(config, photos_of(given, names)) for names in ("ab", "ba", "abc"))
    assert two[0].keys["invert"] == turned[1].keys["invert"] == three[0].keys["invert"]
    assert len({two[0].keys["tune"], turned[1].keys["tune"], three[0].keys["tune"]}) == 3


def test_a_member_is_edited_later_with_the_shared_generator(generator: Path, given: Path, tmp_path: Path) -> None:
    results = run_photos(config_of(generator, tmp_path, shared=True), photos_of(given, "ab"))
    edit = EditConfig(points=[[110.0, 100.0, 118.0, 100.0]], steps=4, lr=0.05)
    member = results[1].run_dir
    again = {"photo": None, "from_run": str(member), "stages": ["edit", "blend"]}
    outcome = run(short_config(generator, tmp_path, edit=edit, **again))
    assert outcome.run_dir == member
    assert manifest_of(member)["faces"][0]["keys"]["tune"] == results[1].keys["tune"]
    assert stage_entries(member)[:3] == [("align", True), ("invert", True), ("tune", True)]
    (edited,) = (member / "edit").iterdir()
    tuned = read_tensors(tune_folder(results[1]) / "tensors.safetensors")
    assert torch.equal(read_tensors(edited / "tensors.safetensors")["start"], tuned["image"])
    assert (member / "between.mp4").is_file()


def test_a_single_face_is_tuned_by_itself_and_that_is_said(
    generator: Path, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photo,) = photos_of(given, "a")
    plain = run(config_of(generator, tmp_path, photo=str(photo)))
    capsys.readouterr()
    alone = run(config_of(generator, tmp_path, shared=True, photo=str(photo)))
    assert "tune.shared is true, but there is only one face" in capsys.readouterr().err
    assert alone.manifest["faces"][0]["keys"] == plain.manifest["faces"][0]["keys"]
    assert all(reused for _, reused in stage_entries(alone.run_dir))
    assert not (alone.run_dir / "between.mp4").exists()


def test_faces_of_one_photo_share_a_generator_and_the_report_shows_the_way(
    generator: Path, given: Path, tmp_path: Path
) -> None:
    first, second = (cv2.imread(str(path)) for path in photos_of(given, "ac"))
    cv2.imwrite(str(tmp_path / "two.png"), np.hstack([first, second]))
    config = config_of(generator, tmp_path / "out", batch=2, shared=True, align=AlignConfig(face="all"))
    outcome = run(replace(config, photo=str(tmp_path / "two.png")))
    store, faces = StageStore(outcome.run_dir), outcome.manifest["faces"]
    tuned = [read_tensors(store.folder("tune", face["keys"]["tune"]) / "tensors.safetensors") for face in faces]
    assert all(torch.equal(value, stored_factors(tuned[1])[name]) for name, value in stored_factors(tuned[0]).items())
    frames = read_video(outcome.run_dir / "between.mp4")
    assert len(frames) == 2 * 24 + 1
    wanted = enlarged(image_u8(tuned[0]["image"])).astype(np.float32)
    middle = enlarged(image_u8(tuned[1]["image"])).astype(np.float32)
    apart = np.abs(wanted - middle).mean()
    assert np.abs(frames[0] - wanted).mean() < 0.3 * apart
    assert np.abs(frames[24] - middle).mean() < 0.3 * apart
    assert (outcome.run_dir / "report.html").read_text().count("data:video/mp4") == 1


def test_the_way_begins_and_ends_at_the_first_pivot_and_passes_the_others(
    generator: Path, given: Path, tmp_path: Path
) -> None:
    results = run_photos(config_of(generator, tmp_path, shared=True), photos_of(given, "abc"))
    pivots = [inversion_of(result) for result in results]
    module, _ = load_generator(generator)
    tensors = [read_tensors(tune_folder(result) / "tensors.safetensors") for result in results]
    tuned = apply_delta(module, expand(stored_factors(tensors[0]), shapes_of(module)))
    frames = list(between_frames(tuned, pivots, leg_frames=3))
    assert len(frames) == 10
    for number, tensor in zip((0, 3, 6, 9), [*tensors, tensors[0]], strict=True):
        assert np.abs(frames[number].astype(int) - enlarged(image_u8(tensor["image"])).astype(int)).max() <= 1
    assert np.abs(frames[1].astype(int) - frames[0]).mean() > 0
    assert (smooth_step(0.0), smooth_step(0.5), smooth_step(1.0)) == (0.0, 0.5, 1.0)
    assert smooth_step(0.1) < 0.1


def test_mixed_noise_keeps_its_strength() -> None:
    rng = torch.Generator().manual_seed(0)
    start, end = ({"n": torch.randn(64, 64, generator=rng) * scale} for scale in (1.0, 2.0))
    half = mixed_noise(start, end, 0.5)["n"]
    assert float(half.std()) == pytest.approx(1.5, rel=0.02)
    assert float(((start["n"] + end["n"]) / 2).std()) < 1.2
    assert torch.equal(mixed_noise(start, end, 0.0)["n"], start["n"])


def test_a_folder_s_experiment_holds_the_way_between_its_photos(
    generator: Path, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(given, tmp_path / "photos"))
    out = tmp_path / "out"
    assert cli.main([str(folder), *settings(generator, out, "align=center", "tune.shared=true", "invert.batch=3")]) == 1
    document = results_of(out)
    assert [(row["photo"], row["status"]) for row in document["rows"]] == [
        *((name, "done") for name in ("a.png", "b.png")),
        *(("broken.jpg", "failed"), ("c.png", "done")),
    ]
    assert "tune: one generator for 3 faces" in capsys.readouterr().out
    experiment = experiment_of(out)
    assert len(read_video(experiment / "between.mp4")) == 3 * 24 + 1
    page = (experiment / "report.html").read_text(encoding="utf-8")
    assert page.count("data:video/mp4") == 1 and "between.mp4" in page
    sums = {file_sha256(path) for path in out.glob("*/between.mp4")}
    assert sums == {file_sha256(experiment / "between.mp4")}
    stage = json.loads(next(out.glob("a_*/tune/*/stage.json")).read_text())
    assert len(stage["inputs"]["together"]) == 3


def test_a_stack_of_masks_keeps_each_picture_s_own() -> None:
    masks = [torch.full((1, 1, 4, 4), value) for value in (0.25, 0.5)]
    assert stacked([Counting(mask) for mask in masks]).focus is None
    both = stacked([Counting(masks[0]), Counting(masks[1], masks[1] * 6)])
    assert both.mask is not None and both.focus is not None
    assert both.mask[:, 0, 0, 0].tolist() == [0.25, 0.5]
    assert both.focus[:, 0, 0, 0].tolist() == [1.0, 3.0]
