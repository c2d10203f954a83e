"""dlib's face network rebuilt in PyTorch: equal to dlib's own, and strict about its file."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data.errors import ModelError
from data.landmarks import model_path
from inversion.identity import FaceNetwork, load_face_network, read_face_network, resize_to_chip

FACE_FILE = "dlib_face_recognition_resnet_model_v1.dat"


@pytest.fixture(scope="module")
def network() -> FaceNetwork:
    return load_face_network(model_path(FACE_FILE))


def chips() -> np.ndarray:
    """Three smooth random pictures of full contrast, uint8 [3, 150, 150, 3]."""
    rng = np.random.default_rng(5)
    blurred = [cv2.GaussianBlur(rng.random((150, 150, 3)), (0, 0), sigma) for sigma in (1, 3, 9)]
    return np.stack([cv2.normalize(b, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8) for b in blurred])


def test_descriptor_equals_dlibs(network: FaceNetwork) -> None:
    dlib = pytest.importorskip("dlib")
    reference = dlib.face_recognition_model_v1(str(model_path(FACE_FILE)))
    pictures = chips()
    wanted = np.stack([np.array(reference.compute_face_descriptor(p)) for p in pictures])
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert np.abs(network.descriptor(images).numpy() - wanted).max() < 1e-4


@pytest.mark.parametrize(("colour", "norm"), [((0, 0, 0), 1.3066), ((255, 255, 255), 1.3028), ((255, 0, 0), 1.3132)])
def test_published_norms(network: FaceNetwork, colour: tuple[int, int, int], norm: float) -> None:
    image = (torch.tensor(colour)[None, :, None, None].expand(1, 3, 150, 150) / 127.5) - 1
    assert abs(float(network.descriptor(image).norm()) - norm) < 1e-4


def test_taps_have_the_documented_shapes(network: FaceNetwork) -> None:
    taps = network.taps(torch.zeros(2, 3, 150, 150))
    assert [tuple(t.shape[1:]) for t in taps] == [(32, 35, 35), (64, 17, 17), (128, 8, 8), (256, 4, 4)]


def test_gradient_reaches_the_picture_but_not_the_last_rows(network: FaceNetwork) -> None:
    image = (torch.from_numpy(chips()[:1]).permute(0, 3, 1, 2).float() / 127.5 - 1).requires_grad_()
    network.descriptor(image).square().sum().backward()
    assert image.grad is not None
    assert float(image.grad[:, :, :147, :147].abs().max()) > 0
    assert float(image.grad[:, :, 147:].abs().max()) == 0


def test_resize_to_chip() -> None:
    for side in (64, 150, 256):
        ramp = torch.linspace(-1, 1, side).expand(1, 3, side, side)
        assert resize_to_chip(ramp).shape == (1, 3, 150, 150)
        assert abs(float(resize_to_chip(ramp).mean())) < 1e-3


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    blob = model_path(FACE_FILE).read_bytes()
    for damage, message in [
        (blob[:100_000], "inside a record"),
        (blob + b"x", "1 bytes after its last layer"),
        (b"\x01\x01\x01\x04what" + blob[20:], "not dlib's face recognition network"),
    ]:
        with pytest.raises(ModelError, match=message):
            read_face_network(damage)
    with pytest.raises(ModelError, match="pip install face_recognition_models"):
        load_face_network(tmp_path / "absent.dat")
