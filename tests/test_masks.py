"""Where a crop counts: parts of a face from landmarks, covers from the errors of a coarse fit."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data.alignment import align_ffhq
from data.errors import UsageError
from data.landmarks import find_faces, model_path
from data.photo import read_mask, read_photo
from data.regions import EYES, MOUTH, eyes_and_mouth_mask, face_mask, hull_mask
from inversion.generators.checkpoint import open_checkpoint
from inversion.identity import load_face_network
from inversion.occlusion import (
    OcclusionSettings,
    blobs_of,
    convincing,
    find_covers,
    hysteresis,
    occlusion_mask,
    relative_error,
    robust_scores,
)
from inversion.perceptual import FacePerceptual
from pipeline.counting import mask_on_crop, mask_on_photo
from pipeline.models import embedded_generator
from pipeline.schema import InvertConfig, compose
from tests.runs import PHOTO

SIZE = 256
OUTLINES = {"hull": hull_mask, "face": face_mask, "eyes and mouth": eyes_and_mouth_mask}


@pytest.fixture(scope="module")
def landmarks() -> NDArray[np.float64]:
    """The sample photo's landmarks [68, 2] in its crop of 256 px."""
    photo = read_photo(PHOTO)
    found = find_faces(photo.to_u8())[0].landmarks
    return align_ffhq(found, photo.shape_hw, SIZE).to_crop(found)


def turned(points: NDArray[np.float64], degrees: float) -> NDArray[np.float64]:
    a, center = np.radians(degrees), (SIZE - 1) / 2
    return (points - center) @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) + center


def test_areas_of_the_parts(landmarks: NDArray[np.float64]) -> None:
    shares = {name: float(outline(landmarks, SIZE).mean()) for name, outline in OUTLINES.items()}
    exact = cv2.contourArea(cv2.convexHull(landmarks.astype(np.float32))) / SIZE**2
    assert shares["hull"] == pytest.approx(exact, rel=0.03)
    assert 1.15 * shares["hull"] < shares["face"] < 1.8 * shares["hull"]
    assert 0.15 * shares["hull"] < shares["eyes and mouth"] < 0.5 * shares["hull"]


def test_the_face_holds_the_hull_and_the_hull_eyes_and_mouth(landmarks: NDArray[np.float64]) -> None:
    face, hull, looked_at = (OUTLINES[name](landmarks, SIZE) for name in ("face", "hull", "eyes and mouth"))
    for mask in (face, hull, looked_at):
        assert mask.dtype == np.float32 and mask.shape == (SIZE, SIZE) and mask.min() >= 0 and mask.max() <= 1
    assert (face >= hull - 1e-3).all()
    assert hull[looked_at > 0.5].mean() > 0.95
    assert hull[:20].max() == 0
    forehead = landmarks[17:27].mean(axis=0) - [0, 0.3 * (landmarks[8, 1] - landmarks[27, 1])]
    x, y = np.rint(forehead).astype(int)
    assert face[y, x] > 0.99 and hull[y, x] == 0


def test_eyes_and_mouth_are_inside_their_mask_and_the_nose_is_not(landmarks: NDArray[np.float64]) -> None:
    mask = eyes_and_mouth_mask(landmarks, SIZE)
    for part in (*EYES, MOUTH):
        x, y = np.rint(landmarks[part]).astype(int).T
        assert mask[y, x].min() > 0.5
    x, y = np.rint(landmarks[29]).astype(int)
    assert mask[y, x] < 0.01


@pytest.mark.parametrize("name", OUTLINES)
@pytest.mark.parametrize("degrees", [90, 30])
def test_parts_turn_with_the_face(landmarks: NDArray[np.float64], name: str, degrees: int) -> None:
    upright, other = (OUTLINES[name](points, SIZE) for points in (landmarks, turned(landmarks, degrees)))
    center = ((SIZE - 1) / 2,) * 2
    expected = cv2.warpAffine(upright, cv2.getRotationMatrix2D(center, -degrees, 1), (SIZE, SIZE))
    assert np.abs(other - expected).mean() < 0.004
    assert other.sum() == pytest.approx(upright.sum(), rel=0.03)


def test_closed_eyes_and_mouth_still_count(landmarks: NDArray[np.float64]) -> None:
    closed = landmarks.copy()
    for part in (*EYES, MOUTH):
        closed[part, 1] = landmarks[part, 1].mean()
    mask, opened = eyes_and_mouth_mask(closed, SIZE), eyes_and_mouth_mask(landmarks, SIZE)
    assert 0.6 < mask.sum() / opened.sum() < 1.2
    names, _ = cv2.connectedComponents((mask > 0.5).astype(np.uint8))
    assert names - 1 == 3


def test_masks_keep_their_place_between_photo_and_crop(landmarks: NDArray[np.float64]) -> None:
    photo = read_photo(PHOTO)
    alignment = align_ffhq(find_faces(photo.to_u8())[0].landmarks, photo.shape_hw, SIZE)
    mask = torch.from_numpy(face_mask(landmarks, SIZE))[None, None]
    on_photo = mask_on_photo(mask, alignment)
    assert on_photo.shape == photo.shape_hw
    assert float((mask_on_crop(on_photo, alignment) - mask).abs().max()) < 0.05


def test_hysteresis_keeps_weak_pixels_only_beside_strong_ones() -> None:
    scores = torch.tensor([[0.0, 3, 3, 9, 0, 0, 3, 3], [0.0, 0, 0, 0, 3, 0, 0, 0]])[None, None]
    found = hysteresis(scores, 2.0, 5.0)[0, 0]
    assert found.int().tolist() == [[0, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0, 0]]


def test_scores_do_not_feel_a_cover_that_is_smaller_than_half_the_region() -> None:
    error = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    where = torch.ones(1, 1, 20, 20, dtype=torch.bool)
    where[..., 10:] = False
    plain = robust_scores(error, where)
    covered = error.clone()
    covered[..., :4, :] = 100.0
    assert abs(float(plain[where].median())) < 0.1
    moved = robust_scores(covered, where)
    assert float((moved - plain)[..., 4:, :].abs().max()) < 1.0
    assert float(moved[..., :4, :].min()) > 50
    assert float(robust_scores(error, where, least_spread=100.0).abs().max()) < 0.02


def test_blobs_are_told_apart_and_the_strongest_fill_the_cap() -> None:
    found = torch.zeros(1, 1, 20, 20, dtype=torch.bool)
    found[..., 0:4, 0:5], found[..., 10:14, 0:5], found[..., 18, 18] = True, True, True
    assert sorted(int(blob.sum()) for blob in blobs_of(found)) == [1, 20, 20]
    assert torch.equal(torch.stack(blobs_of(found)).any(dim=0), found)
    scores, searched = torch.ones(1, 1, 20, 20), torch.ones(1, 1, 20, 20, dtype=torch.bool)
    scores[..., 10:, :] = 2.0
    both = convincing(found, scores, searched, min_area=0.02, max_area=0.5)
    assert int(both.sum()) == 40 and not both[..., 18, 18]
    lower = convincing(found, scores, searched, min_area=0.02, max_area=0.07)
    assert int(lower.sum()) == 20 and bool(lower[..., 10:14, 0:5].all())
    assert not convincing(found, scores, searched, min_area=0.2, max_area=0.5).any()


def test_edges_are_excused_and_missing_detail_is_not() -> None:
    settings = OcclusionSettings()
    step = torch.where(torch.arange(64) < 32, -0.6, 0.6).expand(1, 3, 64, 64).contiguous()
    flat, off = torch.zeros(1, 3, 64, 64), torch.full((1, 3, 64, 64), 0.4)
    at_the_edge = relative_error(step.roll(2, dims=3), step, settings)[0, 0, 32, 32]
    plain = relative_error(off, flat, settings)[0, 0, 32, 32]
    assert float((step.roll(2, dims=3) - step).abs()[0, 0, 32, 32]) > 0.4
    assert float(at_the_edge) < float(plain)
    lines = (torch.arange(64) % 4 < 2).float().expand(1, 3, 64, 64) * 0.2 - 0.1
    assert float(relative_error(lines, flat, settings).mean()) > 1.5 * float(
        relative_error(flat, lines, settings).mean()
    )


def pasted(
    picture: torch.Tensor, center: tuple[int, int], radius: int, value: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The picture with a disc of one grey, and the disc [1, 1, R, R]."""
    y, x = torch.meshgrid(*[torch.arange(picture.shape[-1])] * 2, indexing="ij")
    disc = ((x - center[0]) ** 2 + (y - center[1]) ** 2 <= radius**2)[None, None]
    return torch.where(disc, value, picture), disc


def test_a_cover_is_masked_softly_and_a_good_fit_is_not() -> None:
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 3, 128, 128, generator=rng) * 0.05
    fit = torch.nn.functional.interpolate(torch.randn(1, 3, 8, 8, generator=rng), size=(128, 128), mode="bicubic") * 0.3
    target, disc = pasted(fit + noise[:1], (70, 60), 14, 0.95)
    where = torch.ones(1, 1, 128, 128)
    assert torch.equal(occlusion_mask(fit, fit + noise[1:], where), where)
    mask = occlusion_mask(fit, target, where)
    assert float(mask[disc].max()) < 0.6 and float(mask[disc].mean()) < 0.1
    assert float((mask[~disc] < 0.5).float().mean()) < 0.04
    assert ((mask > 0.1) & (mask < 0.9)).any()
    where[..., 40:, :] = 0
    assert torch.equal(occlusion_mask(fit, target, where), torch.ones_like(where))


def test_most_of_a_face_is_never_masked() -> None:
    where = torch.ones(1, 1, 64, 64)
    target = torch.zeros(1, 3, 64, 64)
    wrong = target.clone()
    wrong[..., :24] = 0.9
    share = float((occlusion_mask(wrong, target, where, OcclusionSettings(max_area=0.5)) < 0.5).float().mean())
    assert 0.3 < share < 0.5
    assert bool((occlusion_mask(wrong, target, where, OcclusionSettings(max_area=0.2)) == 1).all())


def test_covers_of_a_generated_face_are_found_and_a_clean_one_has_none() -> None:
    with open_checkpoint(embedded_generator()) as checkpoint:
        generator, stats = checkpoint.build(), checkpoint.stats
    face = FacePerceptual(load_face_network(model_path("dlib_face_recognition_resnet_model_v1.dat")))
    z = torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        picture = generator.synthesize(generator.map(z, truncation_psi=0.7)).clamp(-1, 1)
    size = generator.resolution
    counted = torch.ones(1, 1, size, size)
    region, _ = pasted(torch.zeros(1, 1, size, size), (size // 2, size * 9 // 16), size // 3, 1.0)
    covered, disc = pasted(picture, (size * 3 // 8, size * 5 // 8), size // 9, 1.0)
    quick = OcclusionSettings(steps=24)

    def found(target: torch.Tensor) -> torch.Tensor:
        rng = torch.Generator().manual_seed(0)
        return find_covers(generator, target, face, rng, counted, region, stats, quick) < 0.5

    assert float(found(picture).float().mean()) < 0.01
    mask = found(covered)
    assert float(mask[disc].float().mean()) > 0.8
    assert float(mask[~disc].float().mean()) < 0.1


def test_the_words_of_the_mask_are_no_paths_and_everything_else_is() -> None:
    assert [compose([f"invert.mask={word}"]).invert.mask_path for word in ("none", "face", "hull", "auto")] == [
        None
    ] * 4
    assert InvertConfig(mask="hands.png").mask_path == "hands.png"
    with pytest.raises(
        UsageError, match=r"^invert.mask is empty: allowed are none, face, hull, auto, or a PNG in photo"
    ):
        compose(["invert.mask=''"])


def test_a_black_mask_says_what_white_means(tmp_path: Path) -> None:
    path = tmp_path / "black.png"
    cv2.imwrite(str(path), np.zeros((8, 8), np.uint8))
    with pytest.raises(UsageError, match=r"black everywhere, so nothing counts; paint what counts white\."):
        read_mask(path, (8, 8), "counts")
    with pytest.raises(UsageError, match=r"so nothing may change; paint what may change white\."):
        read_mask(path, (8, 8))
