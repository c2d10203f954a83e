"""The blend stage: what it is told of an edit, several faces in one photo, labels and signatures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.alignment import Alignment, Crop, align_ffhq, align_precropped, align_quad, crop_photo
from data.errors import ModelError, NoFaceError, UsageError
from data.landmarks import find_faces
from data.photo import Photo, read_photo
from data.regions import openings_mask
from editing.drag import Edited
from editing.points import Drag
from pipeline import blending, pictures
from pipeline.edit_config import EditConfig
from pipeline.edits import EditStep, greatest_mask
from pipeline.locating import faces_in_crop
from pipeline.outputs import Dragged
from pipeline.run import run
from pipeline.schema import BlendConfig
from tests.runs import PHOTO, short_config
from tests.test_provenance import files, told

__all__ = ["files"]

SIDE = 32


def dragged(change: float, **facts: object) -> Dragged:
    """An edit that brightens a square of a grey crop."""
    start = torch.zeros(1, 3, SIDE, SIDE)
    image = start.clone()
    image[..., 10:22, 10:22] += change
    tracks = torch.tensor([[[12.0, 12.0]], [[15.0, 12.0]], [[14.0, 12.0]]])
    edited = Edited(start[..., 0], image, tracks, "arrived", 2, [], {"best_step": 1.0})
    return replace(Dragged(edited, start, np.zeros((0, 2)), None, 1, 24), **facts)  # type: ignore[arg-type]


def crop_of(alignment: Alignment) -> Crop:
    return Crop(np.zeros((1, 3, SIDE, SIDE), np.float32), np.ones((1, 1, SIDE, SIDE), np.float32), alignment)


@pytest.fixture(autouse=True)
def _no_face(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_picture: np.ndarray) -> list[object]:
        raise NoFaceError("none")

    monkeypatch.setattr(blending, "faces_in_crop", none)


def test_colours_that_a_direction_means_are_taken_as_a_whole() -> None:
    drag, direction = dragged(0.1, told=({"preset": "smile"},)), dragged(0.1, told=({"direction": "pca:6"},))
    assert blending.blend_settings(BlendConfig(), drag.told).rest == "new"
    assert blending.blend_settings(BlendConfig(), direction.told).rest == "all"
    assert blending.blend_settings(BlendConfig(rest="new"), direction.told).rest == "new"
    assert blending.blend_settings(BlendConfig(method="crop", tint=0.5, feather=0.1), drag.told).feather == 0.1
    photo = Photo(np.full((SIDE, SIDE, 3), 100, np.uint8))
    crop = crop_of(align_precropped((SIDE, SIDE), SIDE))
    gains = [blending.blend(photo, [(crop, one)], BlendConfig()).photo.pixels[16, 16, 0] for one in (drag, direction)]
    assert gains[1] == pytest.approx(100 + 0.05 * 255, abs=1)
    assert gains[0] < gains[1]


def test_what_was_dragged_by_hand_guides_the_flow_to_the_best_state() -> None:
    assert blending.matches_of(dragged(0.1, told=({"preset": "smile"},))) == (None, None)
    assert blending.matches_of(dragged(0.1, told=({"points": [[0, 0, 1, 1]]}, {"points": [[0, 0, 1, 1]]}))) == (
        None,
        None,
    )
    guides, openings = blending.matches_of(dragged(0.1, told=({"points": [[0, 0, 1, 1]]},)))
    assert guides is not None
    assert openings is None
    assert (guides.before.tolist(), guides.after.tolist()) == ([[12.0, 12.0]], [[15.0, 12.0]])


def test_landmarks_guide_the_flow_and_tell_what_may_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blending, "faces_in_crop", faces_in_crop)
    photo = read_photo(PHOTO)
    face = find_faces(photo.to_u8())[0]
    crop = crop_photo(photo.pixels, align_ffhq(face.landmarks, photo.shape_hw, 128))
    shifted = np.roll(crop.image, 3, axis=3)
    edited = replace(dragged(0.1).edited, image=torch.from_numpy(shifted))
    guides, openings = blending.matches_of(replace(dragged(0.1), start=torch.from_numpy(crop.image), edited=edited))
    assert guides is not None and openings is not None
    assert (guides.after - guides.before).mean(axis=0) == pytest.approx([3.0, 0.0], abs=0.7)
    places = ([[51, 57]], [[37, 40], [43, 46]])
    mouth, eyes = (np.rint(guides.before[pairs].mean(axis=1)).astype(int) for pairs in places)
    assert openings[mouth[:, 1], mouth[:, 0]].min() > 0.9
    assert openings[eyes[:, 1], eyes[:, 0]].max() < 0.1
    closed = guides.before.copy()
    closed[[37, 38, 43, 44]] = closed[[41, 40, 47, 46]] - [0.0, 0.5]
    opened = openings_mask(closed, guides.before, 128)
    assert opened[eyes[:, 1], eyes[:, 0]].min() > 0.5
    cheek = np.rint(guides.before[[2, 14]]).astype(int)
    assert openings[cheek[:, 1], cheek[:, 0]].max() < 0.1

    # Without dlib's predictor nothing is known of a face, and the blend goes on without.
    def missing(_picture: np.ndarray) -> list[object]:
        raise ModelError("no predictor")

    lost = replace(edited, image=torch.zeros_like(edited.image))
    guides, openings = blending.matches_of(replace(dragged(0.1), start=torch.from_numpy(crop.image), edited=lost))
    assert guides is None and openings is not None
    assert openings[mouth[:, 1], mouth[:, 0]].min() > 0.9
    monkeypatch.setattr(blending, "faces_in_crop", missing)
    assert blending.matches_of(replace(dragged(0.1), start=torch.from_numpy(crop.image), edited=edited)) == (None, None)


def test_faces_whose_crops_overlap_keep_both_edits() -> None:
    photo = Photo(np.full((60, 60, 3), 100, np.uint8))
    quads = [[[x, y], [x, y + 40], [x + 40, y + 40], [x + 40, y]] for x, y in ((2.0, 2.0), (16.0, 14.0))]
    changes = [
        (crop_of(align_quad(quad, (60, 60), SIDE)), dragged(by)) for quad, by in zip(quads, (0.4, -0.3), strict=True)
    ]
    config = BlendConfig(method="difference")
    both = blending.blend(photo, changes, config)
    alone = [blending.blend(photo, [one], config) for one in changes]
    first, second = (one.photo.pixels.astype(int) - 100 for one in alone)
    assert (np.abs(first).max(axis=2) > 0).sum() and (np.abs(second).max(axis=2) > 0).sum()
    assert ((first != 0) & (second != 0)).any(), "they overlap"
    assert np.abs(both.photo.pixels.astype(int) - 100 - first - second).max() <= 1
    assert np.array_equal(both.mask, np.maximum(alone[0].mask, alone[1].mask))
    assert np.array_equal(both.photo.pixels[both.mask == 0], photo.pixels[both.mask == 0])


def test_masks_of_users_and_of_drags_count_together_and_stay_as_they_are(tmp_path: Path) -> None:
    """Memory is used again for products and maxima, but never that of a mask which someone else holds."""
    photo = Photo(np.full((60, 60, 3), 100, np.uint8))
    quads = [[[x, y], [x, y + 40], [x + 40, y + 40], [x + 40, y]] for x, y in ((2.0, 2.0), (16.0, 14.0))]
    random = np.random.default_rng(3)
    own = [random.random((60, 60)).astype(np.float32) for _ in quads]
    users = np.zeros((60, 60), np.uint8)
    users[10:50, 10:50] = 200
    Image.fromarray(users).save(tmp_path / "mask.png")
    changes = [
        (crop_of(align_quad(quad, (60, 60), SIDE)), dragged(by, mask=mask.copy()))
        for quad, by, mask in zip(quads, (0.4, -0.3), own, strict=True)
    ]
    config = BlendConfig(method="difference", mask=str(tmp_path / "mask.png"))
    both = blending.blend(photo, changes, config)
    products = [
        (crop, replace(one, mask=mask * (users / np.float32(255))))
        for (crop, one), mask in zip(changes, own, strict=True)
    ]
    alone = [blending.blend(photo, [one], BlendConfig(method="difference")) for one in products]
    assert np.allclose(both.mask, np.maximum(alone[0].mask, alone[1].mask), atol=1e-6)
    assert (both.mask > 0).any() and not both.mask[users == 0].any()
    assert all(np.array_equal(one.mask, mask) for (_, one), mask in zip(changes, own, strict=True))


def test_the_greatest_of_several_masks() -> None:
    masks = list(np.random.default_rng(4).random((4, 5, 6)).astype(np.float32))
    before = [mask.copy() for mask in masks]
    for count in range(1, 5):
        asked = [Drag(np.zeros((0, 2)), np.zeros((0, 2)), mask) for mask in masks[:count]]
        greatest = greatest_mask([EditStep(EditConfig(), drag, {}) for drag in asked])
        assert np.array_equal(greatest, np.max(before[:count], axis=0))
        assert greatest_mask([EditStep(EditConfig(), replace(asked[0], mask=None), {})]) is None
    assert np.array_equal(masks, before)


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_a_mask_as_a_picture(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(pictures, "BAND_PIXELS", 9 * rows)
    mask = np.random.default_rng(5).random((7, 9)).astype(np.float32)
    assert np.array_equal(pictures.mask_u8(mask), np.rint(mask * 255).astype(np.uint8))


def test_a_label_is_part_of_what_may_change(generator: Path, tmp_path: Path) -> None:
    blend = BlendConfig(label="AI-edited", label_corner="top left")
    folder = run(short_config(generator, tmp_path / "runs", blend=blend)).run_dir
    result, photo = read_photo(folder / "result.png"), read_photo(short_config(generator, tmp_path).photo or "")
    changed = (result.pixels != photo.pixels).any(axis=2)
    assert changed[:60, :120].any()
    assert not changed[-60:, -120:].any()
    assert not changed[read_photo(folder / "mask.png").pixels[..., 0] == 0].any()


def test_a_signed_result_and_what_is_refused_before_the_work(
    generator: Path,
    tmp_path: Path,
    files: tuple[Path, Path],
) -> None:
    chain, key = (str(path) for path in files)
    config = short_config(generator, tmp_path / "runs", blend=BlendConfig(c2pa_certificates=chain, c2pa_key=key))
    folder = run(config).run_dir
    state, manifest, _ = told((folder / "result.png").read_bytes(), "image/png")
    assert state == "Valid"
    assert manifest["ingredients"][0]["title"] == "astronaut.png"
    with pytest.raises(UsageError, match=r"cannot sign with es256"):
        run(short_config(generator, tmp_path / "other", blend=BlendConfig(c2pa_certificates=key, c2pa_key=key)))
    with pytest.raises(UsageError, match=r"go together: give both files to sign the result"):
        run(short_config(generator, tmp_path / "other", blend=BlendConfig(c2pa_key=key)))
    with pytest.raises(UsageError, match=r"font has no letter for"):
        run(short_config(generator, tmp_path / "other", blend=BlendConfig(label="\u4eba")))
    assert not (tmp_path / "other").exists()
