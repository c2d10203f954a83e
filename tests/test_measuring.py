"""The measure stage's parts on a real face: what is left out, what dlib sees, and what a preset moved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.alignment import Crop, align_ffhq, align_precropped, crop_photo
from data.landmarks import find_faces, model_path
from data.photo import read_photo
from editing.drag import Edited
from editing.presets import face_frame
from inversion.identity import load_face_network
from inversion.perceptual import BACKBONE_FILES
from pipeline import editability, locating, stages
from pipeline.editability import PresetOutcome, editability_figures, try_presets
from pipeline.measuring import (
    Instruments,
    likeness_figures,
    lpips_trunks,
    read_instruments,
    shared_with,
    subject_of,
)
from pipeline.models import embedded_generator
from pipeline.outputs import Dragged
from pipeline.progress import Console
from pipeline.schema import PerceptualConfig
from tests.runs import PHOTO
from tests.tiny import tiny_generator

SIDE = 128
CPU = torch.device("cpu")
NOTHING = Instruments(None, {})


@pytest.fixture(scope="module")
def crop() -> Crop:
    photo = read_photo(PHOTO)
    landmarks = find_faces(photo.pixels)[0].landmarks
    return crop_photo(photo.pixels, align_ffhq(landmarks, photo.shape_hw, SIDE))


@pytest.fixture(scope="module")
def target(crop: Crop) -> Tensor:
    return torch.from_numpy(crop.image)


def alex_trunk(folder: Path) -> None:
    """A random AlexNet trunk in the published file's layout."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    state = torchvision.models.alexnet().features.state_dict()
    torch.save({f"features.{name}": value for name, value in state.items()}, folder / BACKBONE_FILES["alex"])


def test_landmarks_see_a_shift_in_percent_of_the_eyes_distance(crop: Crop, target: Tensor) -> None:
    subject = subject_of(crop, target, tiny_generator(SIDE, 4))
    assert subject.landmarks is not None
    assert likeness_figures("tuned", target, subject, NOTHING)["landmarks_tuned_percent"] == 0
    shifted = likeness_figures("tuned", target.roll(3, dims=3), subject, NOTHING)
    wanted = 100 * 3 / face_frame(subject.landmarks).unit_px
    assert shifted["landmarks_tuned_percent"] == pytest.approx(wanted, rel=0.2)
    nobody = likeness_figures("tuned", torch.zeros_like(target), subject, NOTHING)
    assert "landmarks_tuned_percent" not in nobody
    assert nobody["psnr_face_256_tuned_db"] < 15


def test_the_face_is_that_of_the_alignment_or_else_the_one_that_is_found(crop: Crop, target: Tensor) -> None:
    generator = tiny_generator(SIDE, 4)
    subject = subject_of(crop, target, generator)
    assert subject.face is not None
    assert 0.2 < float(subject.face.mean()) < 0.6
    assert float(subject.face[..., 80, 64]) > 0.999 and float(subject.face[..., 2, 2]) == 0
    alone = replace(crop, alignment=align_precropped((SIDE, SIDE), SIDE))
    found = subject_of(alone, target, generator).face
    assert found is not None
    assert float((found - subject.face).abs().mean()) < 0.02
    blank = subject_of(alone, torch.zeros_like(target), generator)
    assert blank.face is None and blank.landmarks is None
    names = likeness_figures("invert", target, blank, NOTHING)
    assert not any("face" in name or "landmarks" in name for name in names)
    assert "psnr_border_native_invert_db" in names


def test_networks_that_are_not_there_measure_nothing(
    crop: Crop, target: Tensor, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = subject_of(crop, target, tiny_generator(SIDE, 4))
    assert lpips_trunks(PerceptualConfig()) == {}
    without = likeness_figures("tuned", target + 0.1, subject, NOTHING)
    assert not any(name.startswith(("lpips", "face_features")) for name in without)
    alex_trunk(cache)
    trunks = lpips_trunks(PerceptualConfig())
    assert trunks == {"alex": cache / BACKBONE_FILES["alex"]}
    assert lpips_trunks(PerceptualConfig(backbone_dir=str(cache.parent))) == {}
    network = load_face_network(model_path("dlib_face_recognition_resnet_model_v1.dat"))
    instruments = read_instruments(network, trunks, CPU, Console(False))
    rows = [likeness_figures("tuned", x, subject, instruments) for x in (target, target + 0.1, target.flip(2))]
    assert set(rows[1]) - set(without) == {"lpips_alex_256_tuned", "face_features_tuned"}
    for name in ("lpips_alex_256_tuned", "face_features_tuned"):
        values = [row[name] for row in rows]
        assert values[0] < 1e-6 and values == sorted(values) and values[2] > 1.5 * values[1]
    (cache / BACKBONE_FILES["vgg"]).write_bytes(b"damaged")
    kept = read_instruments(None, lpips_trunks(PerceptualConfig()), CPU, Console(False))
    assert kept.face is None and set(kept.lpips) == {"alex"}
    assert "LPIPS-vgg is not measured" in capsys.readouterr().err


def test_measures_that_share_a_network_with_the_loss_are_named() -> None:
    assert shared_with(["face", None]) == ["face_distance", "face_features"]
    assert shared_with(["lpips_vgg", "lpips_squeeze"]) == ["lpips_vgg"]
    assert shared_with([]) == []


def test_editability_is_the_share_of_presets_that_moved_far_enough() -> None:
    outcomes = {
        "smile": PresetOutcome(0.9, 0.2),
        "open_mouth": PresetOutcome(0.5, 0.4),
        "turn_left": PresetOutcome(None, None),
    }
    found = editability_figures("tuned", outcomes)
    assert found["editability_success_tuned"] == pytest.approx(1 / 3)
    assert found["editability_moved_tuned"] == pytest.approx((0.9 + 0.5 + 0) / 3)
    assert found["editability_face_distance_tuned"] == pytest.approx(0.3)
    assert found["editability_moved_turn_left_tuned"] is None
    assert found["editability_face_distance_smile_tuned"] == 0.2
    assert PresetOutcome(0.6, None).succeeded and not PresetOutcome(0.59, None).succeeded
    assert editability_figures("tuned", {}) == {}


def dragged_to(image: Tensor) -> Any:
    """A drag that ends in the given picture, whatever was asked."""

    def edit(_generator: Any, w: Tensor, _noise: Any, start: Tensor, *_: Any, speed: str) -> Dragged:
        edited = Edited(w, image, torch.zeros(1, 1, 2), "cap", 1, [], {})
        return Dragged(edited, start, np.zeros((1, 2)), None, 1, 24)

    return edit


def test_what_dlib_sees_of_a_drag_decides(crop: Crop, target: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    generator, w = tiny_generator(SIDE, 4), torch.zeros(1, 2, 8)

    def outcomes(image: Tensor, start: Tensor = target) -> dict[str, PresetOutcome]:
        monkeypatch.setattr(stages, "edit", dragged_to(image))
        return try_presets(generator, w, None, start, crop, ["smile", "raise_brows"], Console(False))

    same = outcomes(target)
    assert list(same) == ["smile", "raise_brows"]
    assert all(row.moved == 0 and row.face_distance == 0 and not row.succeeded for row in same.values())
    nobody = outcomes(torch.zeros_like(target))
    assert nobody["smile"] == PresetOutcome(None, None)
    assert outcomes(target, start=torch.zeros_like(target)) == {}
    raised = target.clone()
    raised[..., 40:54, :] = target[..., 44:58, :]  # brows and what is round them, four pixels up
    assert (outcomes(raised)["raise_brows"].moved or 0) > 0.3


def test_presets_that_ask_for_nothing_are_left_out(crop: Crop, target: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "edit", dragged_to(target))
    monkeypatch.setattr(editability, "LEAST_MOVE", 0.1)
    generator = tiny_generator(SIDE, 4)
    presets = ["slimmer_face", "raise_brows", "turn_left"]
    found = try_presets(generator, torch.zeros(1, 2, 8), None, target, crop, presets, Console(False))
    assert list(found) == ["turn_left"]


def test_a_generated_face_can_be_dragged_and_stays_the_same_person() -> None:
    from inversion.generators.checkpoint import load_generator
    from pipeline.schema import SampleConfig

    generator, _ = load_generator(embedded_generator())
    sampled = stages.sample(generator, SampleConfig(seed=3), CPU)
    crop = stages.sampled_crop(sampled)
    found = try_presets(generator, sampled.w, None, sampled.image, crop, ["smile"], Console(False))
    assert found["smile"].succeeded
    assert found["smile"].face_distance is not None and 0.05 < found["smile"].face_distance < 0.6


@pytest.mark.parametrize(("side", "doublings"), [(64, 4), (128, 3), (512, 1), (1024, 0), (2048, 0)])
def test_faces_are_sought_in_crops_up_to_one_size(side: int, doublings: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(locating, "find_faces", lambda _picture, upsample_max: asked.append(upsample_max))
    locating.faces_in_crop(np.zeros((side, side, 3), np.uint8))
    assert asked == [doublings]
