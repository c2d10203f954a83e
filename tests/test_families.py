"""Generators of all families behind one protocol: inverted, tuned, dragged, saved and loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data.errors import ModelError
from editing.drag import DragSettings, drag
from inversion.generators import families
from inversion.generators.checkpoint import load_generator, save_generator
from inversion.generators.letterbox import Letterboxed, canvas_of, squared
from inversion.generators.protocol import Generator
from inversion.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from inversion.generators.stylegan3 import StyleGAN3, StyleGAN3Config
from inversion.losses import Counting, ReconstructionWeights, Targets, psnr_db
from inversion.perceptual import FacePerceptual
from inversion.pivotal import TuneSettings, apply_delta, tune
from inversion.projector import ProjectorSettings, project
from tests.third_family import WAVE, Wave, WaveConfig
from tests.tiny import tiny_generator


def stylegan3() -> Generator:
    torch.manual_seed(1)
    config = StyleGAN3Config(16, z_dim=16, w_dim=16, channel_base=256, channel_max=12, num_layers=6)
    return StyleGAN3(config).eval().requires_grad_(False)


def wave() -> Generator:
    torch.manual_seed(1)
    return Wave(WaveConfig()).eval().requires_grad_(False)


def human() -> Generator:
    torch.manual_seed(1)
    config = StyleGAN2Config(32, z_dim=16, w_dim=16, channel_base=512, channel_max=16, mapping_layers=2, start_width=2)
    return squared(StyleGAN2(config).eval().requires_grad_(False))


FAMILIES: dict[str, Callable[[], Generator]] = {
    "stylegan2": lambda: tiny_generator(32),
    "stylegan2 resnet": lambda: tiny_generator(32, architecture="resnet"),
    "stylegan2 conditional": lambda: tiny_generator(32, c_dim=3),
    "stylegan2 not square": human,
    "stylegan3": stylegan3,
    "wave": wave,
}
each_family = pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)

PIXELS = ReconstructionWeights(perceptual=0.0, pixel=1.0, color=1.0)


@pytest.fixture(autouse=True)
def wave_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))
    families.register(WAVE)


def start_latent(generator: Generator, seed: int) -> torch.Tensor:
    z = torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    c = torch.eye(generator.c_dim)[:1] if generator.c_dim else None
    return generator.map(z, c)


@each_family
def test_the_protocol_holds(make: Callable[[], Generator]) -> None:
    generator = make()
    assert isinstance(generator, Generator)
    ws, size = start_latent(generator, 3), generator.resolution
    image = generator.synthesize(ws)
    assert image.shape == (1, 3, *generator.image_size) and generator.image_size == (size, size)
    assert ws.shape == (1, generator.num_ws, generator.w_dim)
    for layer in generator.feature_layers:
        features = generator.features(ws, layer.name)
        assert features.shape == (1, layer.channels, layer.height, layer.width)
        moved = ws.clone()
        moved[:, layer.num_ws :] += 1.0
        assert torch.equal(generator.features(moved, layer.name), features)
        assert generator.ws_used_by(layer.name) == layer.num_ws
    together = generator.synthesize_with_features(ws, generator.block_resolutions[0])
    assert torch.equal(together[0], image)
    assert torch.equal(together[1], generator.features(ws, generator.block_resolutions[0]))


@each_family
def test_inverted_and_tuned(make: Callable[[], Generator], face: FacePerceptual) -> None:
    generator = make()
    target = generator.synthesize(start_latent(generator, 11))
    target = (target + 0.3 * torch.sin(torch.linspace(0, 9, target.shape[3]))).clamp(-1, 1)
    rng, mask = torch.Generator().manual_seed(0), canvas_of(generator)
    targets = Targets(target, face, Counting(mask))
    settings = ProjectorSettings(steps=40, start_samples=8, w_stats_samples=200, weights=PIXELS, p_norm_weight=0.0)
    first = project(generator, targets, ProjectorSettings(steps=1, weights=PIXELS, w_stats_samples=200), rng)
    found = project(generator, targets, settings, rng)
    assert found.metrics["psnr_db"] > first.metrics["psnr_db"] + 0.5
    tuned = tune(generator, targets, found, TuneSettings(steps=25, rank=0, lr=3e-3, weights=PIXELS), rng)
    assert tuned.metrics["psnr_db"] > found.metrics["psnr_db"] + 0.5
    again = apply_delta(generator, tuned.delta).synthesize(found.w, "const", found.noise)
    assert torch.equal(again, tuned.image)
    assert psnr_db(tuned.image, target, mask) == pytest.approx(tuned.metrics["psnr_db"])


@each_family
def test_dragged(make: Callable[[], Generator]) -> None:
    generator = make()
    middle = (generator.resolution - 1) / 2
    ws, handle = start_latent(generator, 5), [[middle, middle]]
    target = [[middle + generator.resolution / 16, middle]]
    settings = DragSettings(steps=60, lr=0.02, frame_every=0, pull_weight=0.0)
    edited = drag(generator, ws, None, handle, target, settings=settings)
    assert edited.metrics["distance_after_px"] < 0.8 * edited.metrics["distance_before_px"]
    assert edited.image.shape == (1, 3, generator.resolution, generator.resolution)


@pytest.mark.parametrize("name", ["stylegan2", "stylegan3", "wave"])
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    generator = FAMILIES[name]()
    save_generator(generator, tmp_path / "model.safetensors", dtype=torch.float32)
    found, _ = load_generator(tmp_path / "model.safetensors")
    ws = start_latent(generator, 2)
    assert type(found) is type(generator)
    assert torch.equal(found.synthesize(ws), generator.synthesize(ws))


def test_an_unknown_family_is_named(tmp_path: Path) -> None:
    save_generator(wave(), tmp_path / "model.safetensors")
    del families._FAMILIES["wave"]
    with pytest.raises(ModelError, match="family 'wave' is unknown; known here are stylegan2, stylegan3"):
        load_generator(tmp_path / "model.safetensors")


def test_bands_at_the_sides() -> None:
    generator = human()
    assert isinstance(generator, Letterboxed)
    ws = start_latent(generator, 4)
    image, canvas = generator.synthesize(ws), generator.canvas
    assert torch.equal(image[:, :, :, 8:24], generator.inner.synthesize(ws))
    assert float((image * (1 - canvas)).abs().max()) == 0 and float(canvas.sum()) == 32 * 16
    assert set(generator.state_dict()) == set(generator.inner.state_dict())  # type: ignore[attr-defined]
    assert squared(tiny_generator(16)).image_size == (16, 16) and canvas_of(tiny_generator(16)) is None
    wide = StyleGAN2(StyleGAN2Config(16, z_dim=8, w_dim=8, channel_base=64, start_width=8))
    with pytest.raises(ModelError, match="32 x 16 px cannot be used: pictures must be square, or higher than wide"):
        squared(wide)
