"""Measures of a reconstruction: known numbers, regions that mind their own pixels, and the order that damage gives."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from data.landmarks import model_path
from inversion.identity import load_face_network
from inversion.metrics import (
    MS_SSIM_MIN_PX,
    border_ring,
    landmark_error_percent,
    ms_ssim,
    perceptual_distance,
    reconstruction_metrics,
    regions_of,
    resampled,
    ssim_map,
)
from inversion.perceptual import FacePerceptual

ROOT = Path(__file__).resolve().parents[1]
EQUAL_DB = 10 * math.log10(4 / 1e-12)


def picture(seed: int, side: int = 64) -> Tensor:
    """Detailed, within [-0.7, 0.7]."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, side // 4, side // 4, generator=rng) * 1.4 - 0.7
    return F.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False).clamp(-0.7, 0.7)


def everywhere(side: int = 64) -> Tensor:
    return torch.ones(1, 1, side, side)


def middle(side: int = 64) -> Tensor:
    """A face of half the side in the middle."""
    face = torch.zeros(1, 1, side, side)
    face[..., side // 4 : -side // 4, side // 4 : -side // 4] = 1
    return face


def blurred(x: Tensor, reach: int) -> Tensor:
    return F.avg_pool2d(F.pad(x, (reach,) * 4, mode="reflect"), 2 * reach + 1, 1)


def test_a_constant_offset_gives_its_psnr_in_every_region_at_both_sizes() -> None:
    target = picture(0)
    found = reconstruction_metrics("tuned", target + 0.2, target, everywhere(), middle())
    values = {name: value for name, value in found.items() if name.startswith("psnr")}
    regions = ("whole", "face", "background", "border")
    assert set(values) == {f"psnr_{region}_{size}_tuned_db" for region in regions for size in ("native", "256")}
    for value in values.values():
        assert value == pytest.approx(10 * math.log10(4 / 0.04), abs=0.01)


def test_equal_pictures_are_equal() -> None:
    target = picture(1, 192)
    found = reconstruction_metrics("invert", target, target, everywhere(192), middle(192))
    assert len(found) == 18
    for name, value in found.items():
        assert value == pytest.approx(EQUAL_DB if name.endswith("_db") else 1.0, abs=1e-5), name


def test_a_region_minds_only_its_own_pixels() -> None:
    target, face = picture(2), middle()
    for damaged, hurt, whole in ((face, "face", "background"), (1 - face, "background", "face")):
        found = reconstruction_metrics("tuned", target + 0.1 * damaged, target, everywhere(), face)
        assert found[f"psnr_{hurt}_native_tuned_db"] == pytest.approx(10 * math.log10(4 / 0.01), abs=1e-3)
        assert found[f"psnr_{whole}_native_tuned_db"] == pytest.approx(EQUAL_DB, abs=0.1)
        assert found[f"psnr_{hurt}_256_tuned_db"] < 28 < 35 < found[f"psnr_{whole}_256_tuned_db"]
        assert found[f"ssim_{hurt}_256_tuned"] < found["ssim_whole_256_tuned"] < found[f"ssim_{whole}_256_tuned"]


def test_what_lies_outside_the_photo_changes_nothing() -> None:
    target, inside = picture(3, 192), everywhere(192)
    inside[..., 100:] = 0
    image = target + 0.05 * torch.sin(torch.arange(192.0))
    wrecked = torch.where(inside > 0, image, -torch.ones(()))
    first, second = (reconstruction_metrics("tuned", x, target, inside, middle(192)) for x in (image, wrecked))
    assert first == second
    assert 25 < first["psnr_whole_native_tuned_db"] < 40
    assert first["ssim_whole_native_tuned"] < 0.99


def test_regions_without_a_face_or_a_photo_are_left_out() -> None:
    inside = everywhere(50)
    inside[..., :40] = 0
    assert set(regions_of(inside, None)) == {"whole", "border"}
    face = torch.zeros(1, 1, 50, 50)
    face[..., :30] = 1
    assert set(regions_of(inside, face)) == {"whole", "border", "background"}
    target = picture(4, 50)
    found = reconstruction_metrics("tuned", target, target, inside, None)
    assert not any("face" in name or "background" in name for name in found)


def test_the_border_is_a_ring_of_four_percent() -> None:
    ring = border_ring(100)
    assert float(ring.sum()) == 100**2 - 92**2
    assert ring[0, 0, 3, 50] == 1 and ring[0, 0, 4, 50] == 0
    assert float(border_ring(8).sum()) == 28
    target = picture(5, 100)
    found = reconstruction_metrics("tuned", target + 0.2 * ring, target, everywhere(100), middle(100))
    assert found["psnr_border_native_tuned_db"] == pytest.approx(20, abs=0.01)
    assert found["psnr_face_native_tuned_db"] == pytest.approx(EQUAL_DB, abs=0.1)
    share = (100**2 - 92**2) / 100**2
    assert found["psnr_whole_native_tuned_db"] == pytest.approx(20 - 10 * math.log10(share), abs=0.01)


def test_ssim_is_the_published_one_of_pictures_whose_black_is_zero() -> None:
    target = picture(6, 192)
    image = blurred(target, 2) + 0.1
    wanted = structural_similarity_index_measure((image + 1) / 2, (target + 1) / 2, data_range=1.0)
    found = reconstruction_metrics("tuned", image, target, everywhere(192))
    assert found["ssim_whole_native_tuned"] == pytest.approx(float(wanted), abs=1e-4)
    assert 0.2 < float(wanted) < 0.95
    several = multiscale_structural_similarity_index_measure((image + 1) / 2, (target + 1) / 2, data_range=1.0)
    assert found["ms_ssim_native_tuned"] == pytest.approx(float(several), abs=1e-4)
    assert ms_ssim(image, target) == found["ms_ssim_native_tuned"]


def test_ssim_of_flat_pictures_is_its_formula() -> None:
    a, b = 0.3, -0.1
    light_a, light_b, c1 = (a + 1) / 2, (b + 1) / 2, 0.01**2
    wanted = (2 * light_a * light_b + c1) / (light_a**2 + light_b**2 + c1)
    found = ssim_map(torch.full((1, 3, 32, 32), a), torch.full((1, 3, 32, 32), b))
    assert found.shape == (1, 1, 32, 32)
    assert torch.allclose(found, torch.full_like(found, wanted), atol=1e-3)


def test_more_blur_is_worse_by_every_measure() -> None:
    target = picture(7, 192)
    rows = [
        reconstruction_metrics("tuned", blurred(target, reach), target, everywhere(192), middle(192))
        for reach in (1, 2, 4)
    ]
    for name in rows[0]:
        values = [row[name] for row in rows]
        assert values == sorted(values, reverse=True) and values[0] > values[2] + 0.01, name


@pytest.mark.parametrize(("side", "sizes"), [(64, {"256"}), (MS_SSIM_MIN_PX, {"256", "native"})])
def test_ms_ssim_is_measured_only_where_five_scales_fit(side: int, sizes: set[str]) -> None:
    target = picture(8, side)
    found = reconstruction_metrics("tuned", target, target, everywhere(side))
    assert {name for name in found if name.startswith("ms_ssim")} == {f"ms_ssim_{size}_tuned" for size in sizes}


def test_resampling_is_the_identity_at_its_size_and_keeps_light_and_place() -> None:
    target = picture(9, 256)
    assert resampled(target) is target
    for side in (64, 512):
        ramp = torch.linspace(-1, 1, side).expand(1, 1, side, side)
        found = resampled(ramp)
        wanted = (torch.arange(256.0) + 0.5) * side / 256 - 0.5
        assert found.shape == (1, 1, 256, 256)
        assert torch.allclose(found[0, 0, 99, 20:-20], wanted[20:-20] * 2 / (side - 1) - 1, atol=1e-4)


def test_landmark_error_is_in_percent_of_the_distance_between_the_eyes() -> None:
    wanted = torch.zeros(68, 2, dtype=torch.float64)
    wanted[36:42] = torch.tensor([20.0, 30.0], dtype=torch.float64)
    wanted[42:48] = torch.tensor([70.0, 30.0], dtype=torch.float64)
    moved = wanted + torch.tensor([3.0, 4.0])
    assert landmark_error_percent(moved, wanted) == pytest.approx(10)
    moved[:34] = wanted[:34]
    assert landmark_error_percent(moved, wanted) == pytest.approx(5)
    assert landmark_error_percent(wanted, wanted) == 0


def test_perceptual_distance_is_the_mean_over_the_views() -> None:
    face = FacePerceptual(load_face_network(model_path("dlib_face_recognition_resnet_model_v1.dat")))
    first, second = picture(10), picture(11)
    prepared = face.prepare(second)
    views = [float(face.distance(prepared, first, step)) for step in range(6)]
    assert perceptual_distance(face, first, second) == pytest.approx(sum(views) / 6)
    assert max(views) > 1.05 * min(views)


def test_torchmetrics_is_imported_only_to_measure() -> None:
    code = "import sys, pipeline.run, inversion.metrics; print({'torchmetrics', 'lpips'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
