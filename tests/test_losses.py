"""Where and how much a picture counts in the reconstruction loss: mask, focus, identity, full-resolution windows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from data.errors import UsageError
from data.landmarks import model_path
from inversion.identity import FaceNetwork, load_face_network
from inversion.losses import (
    Counting,
    ReconstructionLoss,
    ReconstructionWeights,
    Rendered,
    Targets,
    area_shrunk,
    whole_face_descriptor,
)
from inversion.perceptual import FacePerceptual

PIXEL = ReconstructionWeights(perceptual=0.0, pixel=1.0, color=0.0)


@pytest.fixture(scope="module")
def network() -> FaceNetwork:
    return load_face_network(model_path("dlib_face_recognition_resnet_model_v1.dat"))


@pytest.fixture(scope="module")
def face(network: FaceNetwork) -> FacePerceptual:
    return FacePerceptual(network)


def noise(seed: int, side: int = 32, count: int = 1) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_focus_multiplies_the_pixel_term_and_nothing_else(face: FacePerceptual) -> None:
    target, image = noise(0), noise(1)
    focus = torch.ones(1, 1, 32, 32)
    focus[..., :8, :] = 5.0
    found = ReconstructionLoss(Targets(target, face, Counting(focus=focus)), PIXEL)(image, 0)
    assert float(found) == pytest.approx(float(((image - target).square() * focus).mean()), rel=1e-5)
    color = ReconstructionWeights(perceptual=0.0, pixel=0.0, color=1.0)
    with_focus, without = (
        ReconstructionLoss(Targets(target, face, Counting(focus=x)), color)(image, 0) for x in (focus, None)
    )
    assert torch.equal(with_focus, without)


def test_focus_is_silent_where_the_mask_is_black(face: FacePerceptual) -> None:
    target, image = noise(2), noise(3)
    focus, mask = torch.ones(1, 1, 32, 32), torch.ones(1, 1, 32, 32)
    focus[..., :8, :], mask[..., :8, :] = 50.0, 0.0
    both, masked = (
        ReconstructionLoss(Targets(target, face, Counting(mask, x)), PIXEL)(image, 0) for x in (focus, None)
    )
    assert float(both) == pytest.approx(float(masked), rel=1e-6)


def test_each_picture_of_a_batch_has_its_own_counting(face: FacePerceptual) -> None:
    target, image = noise(4, count=2), noise(5, count=2)
    mask = torch.ones(2, 1, 32, 32)
    mask[1, :, 16:] = 0
    counting = Counting(mask, torch.full((1, 1, 32, 32), 2.0))
    targets = Targets(target, face, counting)
    together = ReconstructionLoss(targets, PIXEL)(image, 0)
    alone = [ReconstructionLoss(targets.of(i), PIXEL)(image[i : i + 1], 0) for i in (0, 1)]
    assert torch.allclose(together, torch.cat(alone), rtol=1e-5)
    assert counting.of(1).focus is counting.focus


def test_identity_is_the_squared_distance_of_descriptors(face: FacePerceptual, network: FaceNetwork) -> None:
    target, image = noise(6, 64), noise(7, 64)
    weights = ReconstructionWeights(perceptual=0.0, pixel=1.0, color=0.0, identity=3.0)
    plain = ReconstructionLoss(Targets(target, face), PIXEL)(image, 0)
    found = ReconstructionLoss(Targets(target, face, identity=network), weights)(image, 0)
    apart = whole_face_descriptor(network, image) - whole_face_descriptor(network, target)
    assert float(found - plain) == pytest.approx(3 * float(apart.square().sum()), rel=1e-4)
    assert float(found - plain) > 0.01
    assert float(ReconstructionLoss(Targets(target, face, identity=network), weights)(target, 0)) < 1e-6


def test_identity_does_not_see_what_is_masked_out(face: FacePerceptual, network: FaceNetwork) -> None:
    target = noise(8, 64)
    mask = torch.ones(1, 1, 64, 64)
    mask[..., 20:44, 20:44] = 0
    image = torch.where(mask == 0, -target, target)
    weights = ReconstructionWeights(perceptual=0.0, pixel=1.0, color=0.0, identity=1.0)
    assert float(ReconstructionLoss(Targets(target, face, Counting(mask), identity=network), weights)(image, 0)) < 1e-6
    assert float(ReconstructionLoss(Targets(target, face, identity=network), weights)(image, 0)) > 0.1


def test_identity_needs_its_network(face: FacePerceptual) -> None:
    with pytest.raises(UsageError, match=r"^weights.identity needs dlib's face network: `pip install face_recogn"):
        ReconstructionLoss(Targets(noise(0), face), ReconstructionWeights(identity=1.0))
    with pytest.raises(UsageError, match=r"weights.identity=-1 is out of range"):
        ReconstructionWeights(identity=-1)


def tiles(picture: Tensor, side: int) -> list[tuple[int, int, Tensor]]:
    size = picture.shape[-1]
    return [
        (top, left, picture[..., top : top + side, left : left + side])
        for top in range(0, size, side)
        for left in range(0, size, side)
    ]


@pytest.mark.parametrize("size_px", [32, 16, 8])
@pytest.mark.parametrize("masked", [False, True])
def test_windows_add_up_to_the_error_at_full_resolution(face: FacePerceptual, size_px: int, masked: bool) -> None:
    target, image = noise(9, 64), noise(10, 64)
    mask, focus = torch.ones(1, 1, 64, 64), torch.ones(1, 1, 64, 64)
    if masked:
        mask[..., :16, :], focus[..., 24:48, 8:32] = 0.0, 4.0
    loss_of = ReconstructionLoss(Targets(target, face, Counting(mask, focus)), PIXEL, size_px=size_px)
    small = area_shrunk(image, size_px)
    found = [float(loss_of(Rendered(small, window, top, left), 0)) for top, left, window in tiles(image, 16)]
    whole = float(((image - target).square() * mask * focus).mean())
    assert sum(found) / len(found) == pytest.approx(whole, rel=1e-5)
    assert max(found) > min(found) + 1e-3
    assert float(loss_of(Rendered(small), 0)) < 0.6 * whole


def test_pictures_at_full_size_need_no_window(face: FacePerceptual) -> None:
    target, image = noise(11), noise(12)
    loss_of = ReconstructionLoss(Targets(target, face), PIXEL)
    assert torch.equal(loss_of(Rendered(image), 0), loss_of(image, 0))
    assert float(loss_of(image, 0)) == pytest.approx(float((image - target).square().mean()), rel=1e-5)
