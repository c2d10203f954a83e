"""Perceptual distances: monotonic, cached features equal fresh ones, LPIPS equal to the package's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from data.errors import ModelError, UsageError
from inversion.losses import (
    Counting,
    ReconstructionLoss,
    ReconstructionWeights,
    Targets,
    low_frequency_mse,
    noise_regularizer,
    psnr_db,
)
from inversion.perceptual import BACKBONE_FILES, FacePerceptual, View, cut_view, load_lpips, unit_channels


def smooth_picture(seed: int, side: int = 64) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 9, 9, generator=rng) * 2 - 1
    return F.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False).clamp(-1, 1)


def test_face_distance_rises_with_damage(face: FacePerceptual) -> None:
    target = smooth_picture(0)
    prepared = face.prepare(target)
    other = smooth_picture(1)
    for step in range(face.num_views):
        same = float(face.distance(prepared, target, step))
        levels = [float(face.distance(prepared, torch.lerp(target, other, t), step)) for t in (0.1, 0.3, 1.0)]
        assert same < 1e-6
        assert levels == sorted(levels)
        assert levels[0] > 1e-3


def test_views_hold_the_whole_crop_and_the_face(face: FacePerceptual) -> None:
    picture = smooth_picture(2, 150)
    assert torch.allclose(cut_view(picture, View(0.5, 0.5, 1.0)), picture, atol=1e-5)
    assert torch.allclose(cut_view(picture, View(0.5, 0.5, 1.0, mirror=True)), picture.flip(3), atol=1e-5)
    quarter = cut_view(picture, View(0.25, 0.75, 0.5), 75)
    assert torch.allclose(quarter, picture[:, :, 75:, :75], atol=1e-5)


def lpips_backbone(folder: Path) -> Path:
    """A random trunk of LPIPS-squeeze in the published file's layout."""
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(3)
    path = folder / BACKBONE_FILES["squeeze"]
    torch.save(models.squeezenet1_1(weights=None).state_dict(), path)
    return path


def test_lpips_equals_the_package(tmp_path: Path) -> None:
    lpips = pytest.importorskip("lpips")
    path = lpips_backbone(tmp_path)
    ours = load_lpips("squeeze", tmp_path)
    reference = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False).eval()
    trunk = torch.load(path, weights_only=True)
    reference.net.load_state_dict({k: trunk["features." + k.split(".", 1)[1]] for k in reference.net.state_dict()})
    a, b = smooth_picture(4), smooth_picture(5)
    wanted = float(reference(a, b))
    assert wanted > 0
    assert float(ours.distance(ours.prepare(a), b, 0)) == pytest.approx(wanted, rel=1e-4)


def test_missing_or_foreign_backbones_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"alexnet-owt.*`photodrag models download lpips-alex`.*perceptual=face"):
        load_lpips("alex", tmp_path)
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / BACKBONE_FILES["squeeze"])
    (tmp_path / BACKBONE_FILES["alex"]).write_bytes(b"damaged")
    for name in ("squeeze", "alex"):
        with pytest.raises(ModelError, match="not the published trunk"):
            load_lpips(name, tmp_path)


def test_mask_takes_pixels_out_of_every_term(face: FacePerceptual) -> None:
    target = smooth_picture(6)
    mask = torch.ones(1, 1, 64, 64)
    mask[..., 32:] = 0
    damaged = target.clone()
    damaged[..., 32:] = 1.0
    weights = ReconstructionWeights(1.0, 1.0, 1.0)
    assert float(ReconstructionLoss(Targets(target, face, Counting(mask)), weights)(damaged, 0)) < 1e-6
    assert float(ReconstructionLoss(Targets(target, face), weights)(damaged, 0)) > 0.01


def test_weights_switch_terms_off(face: FacePerceptual) -> None:
    target, image = smooth_picture(7), smooth_picture(8)
    only = [ReconstructionWeights(*w) for w in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    parts = [float(ReconstructionLoss(Targets(target, face), w)(image, 0)) for w in only]
    both = float(ReconstructionLoss(Targets(target, face), ReconstructionWeights(2, 3, 4))(image, 0))
    assert both == pytest.approx(2 * parts[0] + 3 * parts[1] + 4 * parts[2], rel=1e-5)
    assert parts[1] == pytest.approx(float((image - target).square().mean()), rel=1e-5)
    with pytest.raises(UsageError, match=r"weights.pixel=-1 is out of range"):
        ReconstructionWeights(pixel=-1)
    with pytest.raises(UsageError, match="All of weights"):
        ReconstructionWeights(0, 0, 0)


def test_low_frequency_sees_colour_not_detail() -> None:
    checkers = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 2.0 - 1
    assert float(low_frequency_mse(checkers.expand(1, 3, 64, 64))) < 1e-12
    assert float(low_frequency_mse(torch.full((1, 3, 64, 64), 0.5))) == pytest.approx(0.25)


def test_noise_regularizer_prefers_white_noise() -> None:
    rng = torch.Generator().manual_seed(0)
    white = torch.randn(1, 1, 32, 32, generator=rng)
    striped = torch.randn(1, 1, 1, 32, generator=rng).expand(1, 1, 32, 32)
    assert float(noise_regularizer([white])) < 0.1 * float(noise_regularizer([striped]))


def test_psnr() -> None:
    target = torch.zeros(1, 3, 8, 8)
    assert psnr_db(target + 0.2, target) == pytest.approx(20.0, abs=1e-4)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    damaged = target.clone()
    damaged[..., 4:] = 1
    assert psnr_db(damaged + 0.02 * mask, target, mask) == pytest.approx(40.0, abs=1e-3)


def test_flat_places_do_not_blow_up_the_gradient() -> None:
    x = smooth_picture(3).abs().repeat(1, 8, 1, 1) + 0.1
    plain = x.clone().requires_grad_(True)
    (usual,) = torch.autograd.grad(unit_channels(plain)[:, 0].sum(), plain)
    x[:, :, :4, :4] = 0.0
    x[:, 3, :4, :4] = 1e-4  # one channel hardly answers: its unit length is all of it
    flat = x.clone().requires_grad_(True)
    found = unit_channels(flat)
    assert torch.equal(found, unit_channels(x))
    assert torch.allclose(found.norm(dim=1), torch.ones(()), atol=0.01)
    (gradient,) = torch.autograd.grad(found[:, 0].sum(), flat)
    assert float(gradient[..., :4, :4].norm()) < 50 * float(usual[..., :4, :4].norm())
    assert torch.allclose(gradient[..., 8:, 8:], usual[..., 8:, 8:], rtol=0.05, atol=1e-3)
