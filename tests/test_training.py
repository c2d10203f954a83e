"""The trainer on a handful of synthetic pictures: it runs, resumes to the same bits, and measures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data.errors import ModelError, UsageError
from data.landmarks import model_path
from inversion.generators.checkpoint import load_generator
from inversion.identity import load_face_network
from inversion.training.anchor import SIDE_PX, anchor_loss, coarse, fit_picture_model
from inversion.training.augment import AugmentSettings, augment, draw_augment
from inversion.training.discriminator import PixelBranch, ProjectedDiscriminator, minibatch_stddev, r1_penalty
from inversion.training.metrics import frechet_distance
from inversion.training.state import load_state
from inversion.training.step import GanSettings, gan_step, new_state
from pipeline.train import TrainConfig, build_generator, draw_reals, parse_arguments, train
from tests.tiny import tiny_generator


def face_folder(folder: Path) -> Path:
    """Eight smooth pictures; the manifest puts the last one in the validation split."""
    rng = np.random.default_rng(0)
    (folder / "32").mkdir(parents=True)
    rows = ["file,split"]
    for i in range(8):
        picture = cv2.resize(rng.random((5, 5, 3)), (40, 40), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "32" / f"{i}.png"), (picture.clip(0, 1) * 255).astype(np.uint8))
        rows.append(f"32/{i}.png,{'val' if i == 7 else 'train'}")
    (folder / "MANIFEST.csv").write_text("\n".join(rows))
    return folder


def tiny_config(faces: Path, out: Path, images: int) -> TrainConfig:
    return TrainConfig(
        faces=faces,
        out=out,
        resolution=16,
        grow_from=None,
        images=images,
        warmup_images=8,
        batch=4,
        channel_base=128,
        channel_max=8,
        z_dim=16,
        w_dim=16,
        seed=3,
        device="cpu",
        threads=0,
        save_every_s=1e9,
        report_every=1_000_000,
    )


def test_training_resumes_to_the_same_bits(tmp_path: Path) -> None:
    faces = face_folder(tmp_path / "faces")
    whole = train(tiny_config(faces, tmp_path / "whole", 16))
    train(tiny_config(faces, tmp_path / "parts", 12))
    resumed = train(tiny_config(faces, tmp_path / "parts", 16))
    assert (whole.step, resumed.step, resumed.images) == (3, 3, 16)
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, resumed.average.state_dict()[name]), name
    first = build_generator(tiny_config(faces, tmp_path, 0)).state_dict()
    assert any(not torch.equal(v, first[k]) for k, v in whole.generator.state_dict().items() if k in first)
    generator, _ = load_generator(tmp_path / "parts" / "generator.safetensors")
    assert generator.resolution == 16


def test_growing_starts_from_the_smaller_generator(tmp_path: Path) -> None:
    faces = face_folder(tmp_path / "faces")
    train(tiny_config(faces, tmp_path / "small", 4))
    arguments = ["--faces", str(faces), "--out", str(tmp_path / "big"), "--resolution", "32", "--images", "4"]
    arguments += ["--batch", "4", "--grow-from", str(tmp_path / "small" / "generator.safetensors"), "--device", "cpu"]
    state = train(parse_arguments(arguments))
    assert state.generator.resolution == 32
    with pytest.raises(ModelError, match="training state of 16 px, not of 32 px"):
        load_state(state, tmp_path / "small" / "state.safetensors")


def test_only_the_train_split_is_shown(tmp_path: Path) -> None:
    from data.faces import list_faces, load_faces

    faces = face_folder(tmp_path / "faces")
    assert load_faces(faces, 16, "train").shape == (7, 16, 16, 3)
    assert [p.name for p in list_faces(faces, "val")] == ["7.png"]
    with pytest.raises(UsageError, match="holds no pictures of split 'test'"):
        load_faces(faces, 16, "test")
    batch = draw_reals(torch.from_numpy(load_faces(faces, 16, "train")), 5, torch.Generator(), torch.device("cpu"))
    assert batch.shape == (5, 3, 16, 16)
    assert float(batch.min()) >= -1
    assert float(batch.max()) <= 1


def test_noise_strength_is_bounded() -> None:
    network = load_face_network(model_path("dlib_face_recognition_resnet_model_v1.dat"))
    generator = tiny_generator(16).requires_grad_(True)
    with torch.no_grad():
        generator.synthesis.b8.conv0.noise_strength.fill_(1.0)
    settings = GanSettings(noise_limit=0.03)
    state = new_state(generator, settings, torch.device("cpu"))
    reals = torch.zeros(4, 3, 16, 16)
    model = fit_picture_model(torch.rand(9, 3, 16, 16), generator.z_dim)
    gan_step(state, reals, network, model, settings, torch.Generator().manual_seed(0))
    strengths = [p for name, p in generator.named_parameters() if name.endswith("noise_strength")]
    assert float(torch.stack(strengths).abs().max()) <= 0.03 + 1e-7
    assert state.step == 1


def test_no_augmentation_is_the_identity_and_draws_differ() -> None:
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    still = AugmentSettings(0, 0, 0, 0, 0, 0)
    draw = draw_augment(3, still, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert torch.allclose(augment(images, draw, 16), images, atol=1e-5)
    moving = draw_augment(3, AugmentSettings(), torch.Generator().manual_seed(0), torch.device("cpu"))
    assert not torch.allclose(augment(images, moving, 16), images, atol=1e-2)


def test_minibatch_stddev_sees_a_collapsed_batch() -> None:
    varied = torch.randn(4, 5, 3, 3)
    assert float(minibatch_stddev(varied)[:, -1].mean()) > 0.3
    assert float(minibatch_stddev(varied[:1].repeat(4, 1, 1, 1))[:, -1].abs().max()) < 1e-3


def test_r1_is_the_squared_gradient() -> None:
    torch.manual_seed(0)
    branch = PixelBranch(16, base_channels=4, max_channels=8).double().eval()
    image = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    penalty = float(r1_penalty(branch, image).detach())
    step, total = 1e-6, 0.0
    with torch.no_grad():
        start = branch(image).sum()
        for index in range(image.numel()):
            moved = image.clone()
            moved.view(-1)[index] += step
            total += float((branch(moved).sum() - start) / step) ** 2
    assert penalty > 0
    assert total == pytest.approx(penalty, rel=1e-3)


def test_discriminator_scores_every_tap() -> None:
    discriminator = ProjectedDiscriminator(64)
    shapes = [(32, 35), (64, 17), (128, 8), (256, 4)]
    logits = discriminator.head_logits([torch.randn(2, c, s, s) for c, s in shapes])
    assert [tuple(x.shape) for x in logits] == [(2, 1, 8, 8), (2, 1, 8, 8), (2, 1, 8, 8), (2, 1, 4, 4)]
    assert discriminator.pixel(torch.zeros(2, 3, 64, 64)).shape == (2, 1, 1, 1)


def test_frechet_distance() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(4000, 6, generator=rng), torch.randn(4000, 6, generator=rng)
    assert frechet_distance(a, b) < 0.02
    assert frechet_distance(a, b + 2.0) == pytest.approx(24.0, rel=0.05)
    assert frechet_distance(a, 3.0 * b) == pytest.approx(6 * 4.0, rel=0.1)


def test_picture_model_has_the_photographs_moments() -> None:
    rng = torch.Generator().manual_seed(0)
    photographs = torch.rand(40, 3, 32, 32, generator=rng) * torch.linspace(0, 1, 32) - 0.3
    model = fit_picture_model(photographs, 100)
    pictures = model.pictures(torch.randn(4000, 100, generator=rng))
    both = coarse(torch.cat([photographs, photographs.flip(3)]))
    assert pictures.shape == (4000, 3, SIDE_PX, SIDE_PX)
    assert torch.allclose(pictures.mean(0), both.mean(0), atol=0.02)
    assert torch.allclose(pictures.std(0), both.std(0), atol=0.03)
    z = torch.zeros(2, 100)
    assert float(anchor_loss(model.pictures(z), z, model)) == 0.0
    assert float(anchor_loss(model.pictures(z) + 0.5, z, model)) == pytest.approx(0.25, rel=1e-4)
