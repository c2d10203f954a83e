"""The generator against what the reference computes, and against a direct implementation written for this test."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from data.errors import ModelError
from inversion.generators.checkpoint import load_generator, read_stats, save_generator
from inversion.generators.protocol import Generator
from inversion.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from inversion.latents import latent_stats
from inversion.training.step import grow
from tests.tiny import tiny_generator

FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="reference fixtures are not beside this checkout")


def read_fixture(name: str) -> tuple[StyleGAN2, dict[str, Tensor]]:
    """A generator with a fixture's weights, and the fixture's arrays."""
    kwargs = json.loads((FIXTURES / f"{name}.json").read_text())["kwargs"]
    with np.load(FIXTURES / f"{name}.npz") as archive:
        arrays = {key: torch.from_numpy(archive[key]) for key in archive.files}
    config = StyleGAN2Config(
        resolution=kwargs["img_resolution"],
        z_dim=kwargs["z_dim"],
        w_dim=kwargs["w_dim"],
        c_dim=kwargs["c_dim"],
        channel_base=kwargs["channel_base"],
        channel_max=kwargs["channel_max"],
        mapping_layers=kwargs["mapping_kwargs"]["num_layers"],
        conv_clamp=kwargs["conv_clamp"],
        architecture=kwargs.get("architecture", "skip"),
    )
    generator = StyleGAN2(config).eval().requires_grad_(False)
    state = {key.removeprefix("state/"): value for key, value in arrays.items() if key.startswith("state/")}
    generator.load_state_dict(state, strict=True)
    return generator, arrays


@needs_fixtures
@pytest.mark.parametrize("name", ["sg2", "sg2_cond", "sg2_orig", "sg2_resnet"])
def test_agrees_with_reference(name: str) -> None:
    generator, arrays = read_fixture(name)
    labels = arrays.get("in/c") if generator.c_dim else None
    ws = arrays["in/ws"]
    found = {
        "mapping_psi1": generator.map(arrays["in/z"], labels),
        "mapping_psi0.5_cutoff4": generator.map(arrays["in/z"], labels, truncation_psi=0.5, truncation_cutoff=4),
        "image_const": generator.synthesize(ws),
        "image_none": generator.synthesize(ws, noise_mode="none"),
    }
    found |= {f"features_b{r}": generator.features(ws, r) for r in generator.block_resolutions}
    for key, value in found.items():
        assert (value - arrays[f"out/{key}"]).abs().max() < 1e-4, key


def direct_layer(x: Tensor, layer: torch.nn.Module, w: Tensor, up: bool, noise: Tensor, gain: float) -> Tensor:
    """One synthesis layer, sample by sample, with explicit zero insertion and an explicit two-dimensional filter."""
    outputs = []
    for sample, latent in zip(x, w, strict=True):
        style = layer.affine.weight @ latent / math.sqrt(latent.numel()) + layer.affine.bias
        kernel = layer.weight * style[None, :, None, None]
        kernel = kernel / (kernel.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            size = 2 * sample.shape[-1]
            spread = torch.zeros(1, sample.shape[0], size, size)
            spread[:, :, ::2, ::2] = sample
            y = F.conv2d(F.pad(spread, (2, 1, 2, 1)), kernel.flip(2, 3))
            taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8.0
            y = F.pad(y, (1, 1, 1, 1))
            y = F.conv2d(y[0][:, None], 4 * torch.outer(taps, taps)[None, None])[:, 0][None]
        else:
            y = F.conv2d(sample[None], kernel, padding=1)
        outputs.append(y)
    y = torch.cat(outputs)
    y = y + noise * layer.noise_strength + layer.bias[None, :, None, None]
    return torch.where(y > 0, y, 0.2 * y) * math.sqrt(2) * gain


@pytest.mark.parametrize("resolution", [8, 16, 64])
def test_agrees_with_direct_implementation(resolution: int) -> None:
    generator = tiny_generator(resolution, channels=12, w_dim=20)
    rng = torch.Generator().manual_seed(1)
    ws = torch.randn(2, generator.num_ws, generator.w_dim, generator=rng)
    x, image = generator.synthesis.b4.const.expand(2, -1, -1, -1), None
    for index, r in enumerate(generator.block_resolutions):
        block = generator.synthesis.block(r)
        first = max(2 * index - 1, 0)
        for offset, (name, layer) in enumerate(block.layers()):
            x = direct_layer(x, layer, ws[:, first + offset], name == "conv0", layer.noise_const, 1.0)
        style = ws[:, 2 * index + 1] @ block.torgb.affine.weight.t() / math.sqrt(20) + block.torgb.affine.bias
        kernels = block.torgb.weight[None, :, :, 0, 0] * style[:, None] / math.sqrt(x.shape[1])
        colour = torch.einsum("noi,nihw->nohw", kernels, x) + block.torgb.bias[:, None, None]
        if image is not None:
            taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8.0
            spread = torch.zeros(2, 3, r, r)
            spread[:, :, ::2, ::2] = image
            filtered = F.conv2d(
                F.pad(spread, (2, 1, 2, 1)).reshape(6, 1, r + 3, r + 3), 4 * torch.outer(taps, taps)[None, None]
            )
            image = filtered.reshape(2, 3, r, r)
        image = colour if image is None else image + colour
        assert (generator.features(ws, r) - x).abs().max() < 1e-4
    assert (generator.synthesize(ws) - image).abs().max() < 1e-4


def test_protocol_and_layer_bookkeeping() -> None:
    generator = tiny_generator(32)
    assert isinstance(generator, Generator)
    ws = generator.map(torch.randn(1, generator.z_dim))
    for r in generator.block_resolutions:
        used = generator.ws_used_by(r)
        moved = ws.clone()
        moved[:, used:] += 1.0
        assert torch.equal(generator.features(moved, r), generator.features(ws, r))
        moved = ws.clone()
        moved[:, used - 1] += 1.0
        assert not torch.equal(generator.features(moved, r), generator.features(ws, r))
    image, features = generator.synthesize_with_features(ws, 16)
    assert torch.equal(image, generator.synthesize(ws))
    assert torch.equal(features, generator.features(ws, 16))


def test_noise_modes() -> None:
    generator = tiny_generator(16)
    ws = generator.map(torch.randn(1, generator.z_dim))
    maps = generator.noise_maps()
    assert torch.equal(generator.synthesize(ws, "const", maps), generator.synthesize(ws))
    silent = {name: torch.zeros_like(value) for name, value in maps.items()}
    assert torch.allclose(generator.synthesize(ws, "const", silent), generator.synthesize(ws, "none"), atol=1e-6)
    first = generator.synthesize(ws, "random", rng=torch.Generator().manual_seed(3))
    again = generator.synthesize(ws, "random", rng=torch.Generator().manual_seed(3))
    assert torch.equal(first, again)
    assert not torch.equal(first, generator.synthesize(ws))


def test_truncation_pulls_to_the_mean() -> None:
    generator = tiny_generator(16)
    z = torch.randn(3, generator.z_dim)
    assert torch.allclose(generator.map(z, truncation_psi=0.0), generator.w_avg.expand(3, generator.num_ws, -1))
    half = generator.map(z, truncation_psi=0.5, truncation_cutoff=2)
    whole = generator.map(z)
    assert torch.allclose(half[:, :2] - generator.w_avg, 0.5 * (whole[:, :2] - generator.w_avg), atol=1e-6)
    assert torch.equal(half[:, 2:], whole[:, 2:])


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_gradients_match_finite_differences(architecture: str) -> None:
    generator = tiny_generator(16, channels=6, w_dim=8, architecture=architecture).double()
    ws = torch.randn(1, generator.num_ws, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: generator.synthesize(x).mean(dim=1), (ws,), atol=1e-6)


def test_published_channel_counts() -> None:
    config = StyleGAN2Config(resolution=1024)
    assert [config.channels(r) for r in config.block_resolutions] == [512, 512, 512, 512, 512, 256, 128, 64, 32]


def test_wrong_shapes_are_named() -> None:
    generator = tiny_generator(16)
    with pytest.raises(ModelError, match=r"takes ws of \[N, 6, 32\], not \[1, 18, 512\]"):
        generator.synthesize(torch.zeros(1, 18, 512))
    with pytest.raises(ModelError, match=r"no 64 px block: choose one of \[4, 8, 16\]"):
        generator.features(torch.zeros(1, 6, 32), 64)
    with pytest.raises(ModelError, match=r"takes z of \[N, 32\]"):
        generator.map(torch.zeros(1, 512))
    with pytest.raises(ModelError, match=r"takes labels of \[1, 3\]"):
        tiny_generator(16, c_dim=3).map(torch.zeros(1, 32))
    with pytest.raises(ModelError, match="power of two"):
        StyleGAN2Config(resolution=100)


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    generator = tiny_generator(16)
    path = tmp_path / "tiny.safetensors"
    save_generator(generator, path, {"note": "for a test"}, dtype=torch.float32)
    loaded, sha256 = load_generator(path)
    assert len(sha256) == 64
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in generator.state_dict().items())
    ws = generator.map(torch.randn(1, generator.z_dim))
    assert torch.equal(loaded.synthesize(ws), generator.synthesize(ws))


def test_latent_statistics_travel_in_the_file(tmp_path: Path) -> None:
    generator = tiny_generator(16)
    path = tmp_path / "tiny.safetensors"
    save_generator(generator, path)
    assert read_stats(path) is None
    stats = latent_stats(generator, 500, torch.Generator().manual_seed(0))
    save_generator(generator, path, stats=stats)
    kept = read_stats(path)
    assert kept is not None
    assert kept.w_std == pytest.approx(stats.w_std)
    for name in ("w_avg", "pn_mean", "pn_whiten"):
        assert torch.equal(getattr(kept, name), getattr(stats, name))
    assert load_generator(path)[0].resolution == 16
    save_generator(generator, path, stats=replace(stats, pn_mean=stats.pn_mean[:-1]))
    with pytest.raises(ModelError, match="has damaged latent statistics: write the generator file again"):
        read_stats(path)


def test_a_misspelt_key_of_the_header_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "misspelt.safetensors"
    save_generator(tiny_generator(16), path)
    path.write_bytes(path.read_bytes().replace(b"block_channels", b"blomk_channels"))
    with pytest.raises(ModelError) as refusal:
        load_generator(path)
    assert str(refusal.value).endswith("got an unexpected keyword argument 'blomk_channels').")


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    with pytest.raises(ModelError, match="no generator file at"):
        load_generator(path)
    save_generator(tiny_generator(16), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        load_generator(path)
    path.write_bytes(b"\x80\x04garbage that is no safetensors header at all")
    with pytest.raises(ModelError, match="has the pickle instruction GET, which no checkpoint needs"):
        load_generator(path)


def test_growing_keeps_the_picture() -> None:
    generator = tiny_generator(16)
    grown = grow(generator)
    ws = generator.map(torch.randn(2, generator.z_dim))
    longer = torch.cat([ws, ws[:, -1:].repeat(1, 2, 1)], dim=1)
    shrunk = F.avg_pool2d(grown.synthesize(longer), 2)
    assert grown.resolution == 32
    assert (shrunk - generator.synthesize(ws)).abs().mean() < 0.1 * generator.synthesize(ws).abs().mean()
