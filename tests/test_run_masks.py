"""Runs in which only a part of the crop counts: words, painted masks, their keys, and what is told and stored."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from data.errors import ModelError, NoFaceError, UsageError
from data.photo import read_photo
from pipeline import run as run_module
from pipeline.artifacts import read_tensors
from pipeline.outputs import INVERT
from pipeline.run import run
from pipeline.schema import AlignConfig, InvertWeights, RunConfig, TuneWeights
from tests.runs import PHOTO, manifest_of, run_dir, short_config, stage_entries

FITTED = ["align", "invert", "tune"]


def config_of(generator: Path, out: Path, stages: list[str] = FITTED, **invert: Any) -> RunConfig:
    """A short run whose inversion has other settings."""
    config = short_config(generator, out, stages=stages)
    return replace(config, invert=replace(config.invert, **invert))


def painted(path: Path, columns: slice, size: int = 512) -> str:
    """A mask that is white in some columns."""
    mask = np.zeros((size, size), np.uint8)
    mask[:, columns] = 255
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), mask)
    return str(path)


def inverted_folder(folder: Path) -> Path:
    """The stage's folder of the newest run."""
    return folder / "invert" / manifest_of(folder)["faces"][0]["keys"]["invert"][:16]


def recomputed(folder: Path) -> list[str]:
    return [stage for stage, reused in stage_entries(folder) if not reused]


def test_the_face_counts_in_inversion_and_tuning_and_is_shown(generator: Path, tmp_path: Path) -> None:
    folder = run(config_of(generator, tmp_path, mask="face")).run_dir
    tensors = read_tensors(inverted_folder(folder) / "tensors.safetensors")
    mask = tensors["mask"]
    assert mask.shape == (1, 1, 64, 64)
    assert 0.15 < float(mask.mean()) < 0.6
    assert float(mask[..., 32, 32]) == 1 and float(mask[..., :4, :4].max()) == 0
    shown = cv2.imread(str(inverted_folder(folder) / "counted.png"), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(shown, np.rint(mask[0, 0].numpy() * 255))
    assert "White: what counted in the inversion" in (folder / "report.html").read_text(encoding="utf-8")
    measured = manifest_of(folder)["metrics"]["psnr_invert_db"]
    squared = (tensors["image"].clamp(-1, 1) - tensors["target"]).square().mean(dim=1, keepdim=True)
    assert measured == pytest.approx(float(10 * torch.log10(4 * mask.sum() / (squared * mask).sum())), abs=1e-3)


def test_without_a_mask_nothing_is_stored_or_shown(generator: Path, tmp_path: Path) -> None:
    folder = run(config_of(generator, tmp_path)).run_dir
    assert not {"mask", "focus"} & set(read_tensors(inverted_folder(folder) / "tensors.safetensors"))
    assert not (inverted_folder(folder) / "counted.png").exists()
    assert "what counted" not in (folder / "report.html").read_text(encoding="utf-8")


def test_a_painted_mask_is_known_by_its_content(generator: Path, tmp_path: Path) -> None:
    out, left, right = tmp_path / "out", slice(0, 224), slice(224, 512)
    path = painted(tmp_path / "mask.png", left)
    folder = run(config_of(generator, out, mask=path)).run_dir
    mask = read_tensors(inverted_folder(folder) / "tensors.safetensors")["mask"]
    assert float(mask[..., :8].min()) == 1 and float(mask[..., -8:].max()) == 0
    run(config_of(generator, out, mask=str(shutil.copy(path, tmp_path / "copied.png"))))
    assert recomputed(folder) == []
    painted(tmp_path / "mask.png", right)
    run(config_of(generator, out, mask=path))
    assert recomputed(folder) == ["invert", "tune"]


def test_masks_that_do_not_fit_stop_the_run_before_it_writes(generator: Path, tmp_path: Path) -> None:
    small, out = painted(tmp_path / "small.png", slice(0, 50), 100), tmp_path / "new"
    with pytest.raises(UsageError, match=r"'small.png' has 100 x 100 pixels, but the upright photo has 512 x 512"):
        run(config_of(generator, out, mask=small))
    with pytest.raises(UsageError) as caught:
        run(config_of(generator, out, mask="fase"))
    assert str(caught.value) == (
        "invert.mask is fase, which does not exist: allowed are none, face, hull, auto or the path of a PNG in photo "
        "pixels; did you mean face?"
    )
    assert not out.exists()
    run(config_of(generator, out, stages=["align"], mask=small))
    continued = config_of(generator, out, stages=["invert"], mask=small)
    with pytest.raises(UsageError, match=r"'small.png' has 100 x 100 pixels, but the upright photo has 512 x 512"):
        run(replace(continued, photo=None, from_run=str(run_dir(out))))
    assert not (run_dir(out) / "invert").exists()


def test_a_mask_that_is_black_in_the_crop_is_refused(generator: Path, tmp_path: Path) -> None:
    corner = painted(tmp_path / "corner.png", slice(505, 512))
    with pytest.raises(UsageError, match=r"corner.png leaves nothing of the aligned crop that counts: paint more"):
        run(config_of(generator, tmp_path / "out", mask=corner))


def test_the_tuning_of_another_run_uses_the_mask_and_focus_of_its_inversion(generator: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = painted(tmp_path / "mask.png", slice(0, 224))
    folder = run(config_of(generator, out, mask=path, focus=3.0)).run_dir
    whole = manifest_of(folder)["metrics"]
    Path(path).unlink()
    plain = short_config(generator, out, stages=["tune"], from_run=str(folder), photo=None, resume=False)
    run(plain)
    assert recomputed(folder) == ["tune"]
    assert manifest_of(folder)["metrics"]["psnr_tuned_db"] == pytest.approx(whole["psnr_tuned_db"], abs=1e-6)
    other = run(config_of(generator, tmp_path / "other")).run_dir
    assert manifest_of(other)["metrics"]["psnr_tuned_db"] != pytest.approx(whole["psnr_tuned_db"], abs=1e-3)


def test_older_inversions_without_a_mask_count_where_the_crop_is_inside_the_photo(out: Path, generator: Path) -> None:
    folder = run_dir(out)
    facts = inverted_folder(folder) / "facts.json"
    inverted = INVERT.load(inverted_folder(folder))
    assert inverted.counting.mask is None and inverted.counting.focus is None and not inverted.rest_stays
    assert "rest_stays" in facts.read_text(encoding="utf-8")
    before = manifest_of(folder)["metrics"]["psnr_tuned_db"]
    run(short_config(generator, out, stages=["tune"], from_run=str(folder), photo=None, resume=False))
    assert manifest_of(folder)["metrics"]["psnr_tuned_db"] == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize(
    ("setting", "words"), [({"mask": "face"}, "invert.mask=face"), ({"focus": 2.0}, "invert.focus=2")]
)
def test_parts_of_a_face_need_one(generator: Path, tmp_path: Path, setting: dict[str, Any], words: str) -> None:
    photo = tmp_path / "grass.png"
    cv2.imwrite(str(photo), np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8))
    config = replace(
        config_of(generator, tmp_path / "out", **setting), photo=str(photo), align=AlignConfig(method="center")
    )
    with pytest.raises(NoFaceError, match=rf"^{words} needs a face, and none was found in this picture: use invert"):
        run(config)


def test_the_face_is_looked_for_where_the_alignment_had_no_landmarks(generator: Path, tmp_path: Path) -> None:
    quad = [[150, 20], [150, 270], [400, 270], [400, 20]]
    config = replace(config_of(generator, tmp_path, mask="hull"), align=AlignConfig("quad", quad=quad))
    folder = run(replace(config, stages=["align", "invert"])).run_dir
    mask = read_tensors(inverted_folder(folder) / "tensors.safetensors")["mask"]
    assert 0.05 < float(mask.mean()) < 0.4


def test_crops_beyond_the_photo_count_inside_it_whatever_the_mask(generator: Path, tmp_path: Path) -> None:
    quad = [[-50, 20], [-50, 320], [250, 320], [250, 20]]
    path = painted(tmp_path / "mask.png", slice(0, 512))
    config = replace(config_of(generator, tmp_path / "out", mask=path), align=AlignConfig("quad", quad=quad))
    folder = run(replace(config, stages=["align", "invert"])).run_dir
    mask = read_tensors(inverted_folder(folder) / "tensors.safetensors")["mask"]
    assert float(mask[..., :10].max()) == 0 and float(mask[..., 12:].min()) == 1


def test_an_edit_changes_nothing_that_was_painted_out(generator: Path, tmp_path: Path) -> None:
    path = painted(tmp_path / "mask.png", slice(0, 224))
    chain = ["align", "invert", "tune", "edit", "blend"]
    free = InvertWeights(p_norm=0.0)  # from its pivots the few steps of these drags move this small generator
    before, after = read_photo(PHOTO).pixels, {}
    for mask in (path, "face"):
        config = config_of(generator, tmp_path / "out", stages=chain, mask=mask, weights=free)
        after[mask] = read_photo(run(config).results[0]).pixels
    changed = {mask: (pixels != before).any(axis=2) for mask, pixels in after.items()}
    assert changed[path][:, :220].any() and not changed[path][:, 228:].any()
    assert changed["face"][:, 228:].any()


def test_auto_stores_what_it_found(generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import counting

    asked: list[torch.Tensor | None] = []

    def covers(_: Any, target: torch.Tensor, *arguments: Any) -> torch.Tensor:
        asked.append(arguments[3])
        found = torch.ones_like(target[:, :1])
        found[..., 40:50, 20:30] = 0
        return found

    monkeypatch.setattr(counting, "find_covers", covers)
    folder = run(config_of(generator, tmp_path, stages=["align", "invert"], mask="auto")).run_dir
    inverted = INVERT.load(inverted_folder(folder))
    assert inverted.rest_stays
    assert inverted.counting.mask is not None
    assert int((inverted.counting.mask == 0).sum()) == 100
    (face,) = asked
    assert face is not None and 0.15 < float(face.mean()) < 0.6


def test_identity_is_a_term_of_its_own_and_needs_the_network(
    generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(generator, tmp_path / "out", stages=["align", "invert"])
    plain = run(config).run_dir
    losses = [INVERT.load(inverted_folder(plain)).inversion.history["loss"][0]]
    weights = InvertWeights(perceptual=0.0, identity=2.0)
    run(replace(config, invert=replace(config.invert, weights=weights)))
    losses.append(INVERT.load(inverted_folder(plain)).inversion.history["loss"][0])
    assert losses[1] > losses[0] + 0.02

    def missing(name: str) -> Path:
        raise ModelError(f"The model {name} is not installed; run `pip install face_recognition_models`.")

    monkeypatch.setattr(run_module, "model_path", missing)
    short = short_config(generator, tmp_path / "new", stages=FITTED)
    short = replace(short, tune=replace(short.tune, weights=TuneWeights(perceptual=0.0, identity=1.5)))
    with pytest.raises(ModelError) as caught:
        run(short)
    assert str(caught.value) == (
        "tune.weights.identity=1.5 needs dlib's face network: The model dlib_face_recognition_resnet_model_v1.dat is "
        "not installed; run `pip install face_recognition_models`."
    )
    assert not (tmp_path / "new").exists()
