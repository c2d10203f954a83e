"""StyleGAN3 against what the reference computes, and against what the paper promises: aligned, equivariant layers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from data.errors import ModelError
from inversion.generators.protocol import Generator
from inversion.generators.stylegan3 import (
    StyleGAN3,
    StyleGAN3Config,
    design_lowpass,
    downsample,
    filter_kernels,
    upsample,
)

FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="reference fixtures are not beside this checkout")

QUARTER_TURN = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
CONFIG_R = {"conv_kernel": 1, "use_radial_filters": True}


def tiny_stylegan3(resolution: int = 32, channels: int = 8, w_dim: int = 16, seed: int = 0, **more) -> StyleGAN3:
    """A frozen random-weight StyleGAN3 whose biases and pose are not zero."""
    torch.manual_seed(seed)
    dims = {"z_dim": w_dim, "w_dim": w_dim, "channel_base": channels * resolution, "channel_max": channels}
    generator = StyleGAN3(StyleGAN3Config(resolution, **(dims | more))).eval().requires_grad_(False)
    for name, parameter in generator.synthesis.named_parameters():
        if name.endswith(".bias") and "affine" not in name:
            parameter.normal_(std=0.2)
    generator.mapping.w_avg.normal_()
    return generator


def read_fixture(name: str) -> tuple[StyleGAN3, dict[str, Tensor]]:
    """A generator of a fixture's shape, its weights still random, and the fixture's arrays."""
    kwargs = json.loads((FIXTURES / f"{name}.json").read_text())["kwargs"]
    with np.load(FIXTURES / f"{name}.npz") as archive:
        arrays = {key: torch.from_numpy(archive[key]) for key in archive.files}
    same = ("z_dim", "w_dim", "c_dim", "channel_base", "channel_max", "conv_clamp", "conv_kernel", "use_radial_filters")
    config = StyleGAN3Config(
        resolution=kwargs["img_resolution"],
        mapping_layers=kwargs["mapping_kwargs"]["num_layers"],
        **{key: kwargs[key] for key in same if key in kwargs},
    )
    return StyleGAN3(config).eval().requires_grad_(False), arrays


@needs_fixtures
@pytest.mark.parametrize("name", ["sg3t", "sg3r"])
def test_agrees_with_reference(name: str) -> None:
    generator, arrays = read_fixture(name)
    state = {key.removeprefix("state/"): value for key, value in arrays.items() if key.startswith("state/")}
    generator.load_state_dict(state, strict=True)
    generator.synthesis.input.transform.copy_(torch.eye(3))
    found = {
        "mapping_psi1": generator.map(arrays["in/z"]),
        "mapping_psi0.5_cutoff4": generator.map(arrays["in/z"], truncation_psi=0.5, truncation_cutoff=4),
        "image": generator.synthesize(arrays["in/ws"]),
    }
    generator.synthesis.input.transform.copy_(torch.tensor([[0.9, -0.1, 0.05], [0.1, 0.9, -0.02], [0.0, 0.0, 1.0]]))
    found["image_transformed"] = generator.synthesize(arrays["in/ws"])
    for key, value in found.items():
        assert (value - arrays[f"out/{key}"]).abs().max() < 1e-4, key


@needs_fixtures
@pytest.mark.parametrize("name", ["sg3t", "sg3r"])
def test_designed_filters_are_the_published_ones(name: str) -> None:
    generator, arrays = read_fixture(name)
    designed = {key: value for key, value in generator.state_dict().items() if key.endswith("_filter")}
    assert len(designed) == 28
    for key, value in designed.items():
        assert (value - arrays[f"state/{key}"]).abs().max() < 1e-5, key


def test_published_layer_geometry() -> None:
    names_t = "L0_36_512 L1_36_512 L2_52_512 L3_52_512 L4_84_512 L5_148_512 L6_148_512 L7_276_323 L8_276_203 L9_532_128"
    names_t += " L10_1044_81 L11_1044_51 L12_1044_32 L13_1024_32 L14_1024_3"
    names_r = "L0_36_1024 L1_36_1024 L2_52_1024 L3_52_1024 L4_84_1024 L5_148_1024 L6_148_1024 L7_276_645 L8_276_406"
    names_r += " L9_532_256 L10_1044_161 L11_1044_102 L12_1044_64 L13_1024_64 L14_1024_3"
    config_t = StyleGAN3Config(1024)
    config_r = StyleGAN3Config(1024, channel_base=65536, channel_max=1024, **CONFIG_R)
    assert [layer.name for layer in config_t.layers()] == names_t.split()
    assert [layer.name for layer in config_r.layers()] == names_r.split()
    layers = config_r.layers()
    assert [layer.target.rate for layer in layers] == [16, 16, 32, 32, 64, 128, 128, 256, 256, 512] + [1024] * 5
    assert [layer.up for layer in layers] == [2, 2, 4, 2, 4, 4, 2, 4, 2, 4, 4, 2, 2, 2, 1]
    assert [layer.down for layer in layers] == [2] * 14 + [1]
    assert [layer.radial for layer in layers] == [True] * 12 + [False] * 3
    assert not any(layer.radial for layer in config_t.layers())
    assert {layer.kernel for layer in config_t.layers()[:-1]} == {3}
    assert layers[-1].kernel == config_t.layers()[-1].kernel == 1


def test_published_cutoffs() -> None:
    bands = StyleGAN3Config(1024).bands()
    assert bands[0].cutoff == 2.0
    assert bands[6].cutoff == pytest.approx(32.0)  # halfway to layer 12, where 512 is reached
    assert [band.cutoff for band in bands[12:]] == [512.0] * 3
    assert bands[0].half_width == pytest.approx(8 - 2.0)
    assert bands[13].half_width == pytest.approx(512 * 2**0.3 - 512)
    # At 256 px a stopband of exactly 64 keeps the rate 128.
    assert StyleGAN3Config(256).layers()[9].name == "L9_148_362"


@pytest.mark.parametrize(
    "more",
    [
        {},
        CONFIG_R,
        {"lrelu_upsampling": 1},
        {"lrelu_upsampling": 4, "filter_size": 5},
        {"conv_kernel": 5, "conv_clamp": None, "margin_size": 3},
        {"num_layers": 3, "num_critical": 1, "img_channels": 1},
    ],
)
def test_every_shape_gives_its_sizes(more: dict) -> None:
    generator = tiny_stylegan3(64, channels=4, **more)
    ws = torch.randn(2, generator.num_ws, generator.w_dim)
    image = generator.synthesize(ws)
    assert image.shape == (2, generator.config.img_channels, *generator.image_size)
    assert image.std() > 1e-3
    for layer in generator.feature_layers:
        assert generator.features(ws, layer.name).shape == (2, layer.channels, layer.height, layer.width)


def response(taps: Tensor, rate: float, x: float, y: float = 0.0) -> float:
    """What a symmetric filter [t, t] leaves of a wave of (x, y) cycles per canvas width."""
    offset = (torch.arange(len(taps)) - (len(taps) - 1) / 2) / rate
    return float((taps * torch.cos(2 * math.pi * (x * offset + y * offset[:, None]))).sum())


def test_filters_keep_the_mean_and_stop_what_is_above() -> None:
    taps = design_lowpass(12, cutoff=6.0, half_width=2.0, rate=32)
    radial = design_lowpass(12, cutoff=6.0, half_width=2.0, rate=32, radial=True)
    separable = torch.outer(taps, taps)
    for kernel in (separable, radial):
        assert response(kernel, 32, 0.0) == pytest.approx(1.0, abs=1e-6)
        assert response(kernel, 32, 6.0) == pytest.approx(0.5, abs=0.05)
        assert all(abs(response(kernel, 32, frequency)) < 0.05 for frequency in (8.0, 10.0, 12.0, 14.0, 16.0))
        assert torch.allclose(kernel, torch.rot90(kernel), atol=1e-8)
    # Only the radial filter treats a diagonal wave of the same length alike.
    assert response(radial, 32, 6 / math.sqrt(2), 6 / math.sqrt(2)) == pytest.approx(0.5, abs=0.05)
    assert response(separable, 32, 6 / math.sqrt(2), 6 / math.sqrt(2)) > 0.9


@pytest.mark.parametrize("factor", [2, 4])
def test_resampling_leaves_a_wave_in_place(factor: int) -> None:
    """Sample k of n at rate s lies at (k + 1/2 - n/2) / s before and after; a factor of 4 takes two passes."""

    def wave(size: int, rate: int) -> Tensor:
        axis = (torch.arange(size) + 0.5 - size / 2) / rate
        return torch.sin(2 * math.pi * (1.3 * axis - 0.1))[None, None, None, :].expand(1, 2, size, size)

    taps = design_lowpass(6 * factor, cutoff=4.0, half_width=4.0, rate=16 * factor)
    kept = response(torch.outer(taps, taps), 16 * factor, 1.3)
    fine = upsample(wave(36, 16), taps, factor, crop=3 * factor)
    assert fine.shape == (1, 2, 35 * factor, 35 * factor)
    inside = slice(4 * factor, -4 * factor)
    assert (fine - kept * wave(35 * factor, 16 * factor))[..., inside, inside].abs().max() < 0.01
    coarse = downsample(wave(36 * factor, 16 * factor), taps, factor)
    assert coarse.shape == (1, 2, 31, 31)
    assert (coarse - kept * wave(31, 16)).abs().max() < 1e-5


def test_two_passes_give_what_one_gives() -> None:
    taps, x = design_lowpass(24, cutoff=4.0, half_width=4.0, rate=64), torch.randn(1, 3, 20, 20)
    kernel = torch.outer(taps, taps).expand(3, 1, 24, 24)
    assert len(filter_kernels(taps)) == 2 and len(filter_kernels(taps[:12])) == 1
    up = F.conv_transpose2d(x, kernel * 16, stride=4, padding=5, groups=3)
    assert torch.allclose(upsample(x, taps, 4, crop=5), up, atol=1e-5)
    assert torch.allclose(downsample(up, taps, 2), F.conv2d(up, kernel, stride=2, groups=3), atol=1e-5)


@pytest.mark.parametrize("more", [{}, CONFIG_R])
@pytest.mark.parametrize(("along", "eighths"), [("x", 1), ("y", -1)])
def test_features_move_with_the_canvas(more: dict, along: str, eighths: int) -> None:
    generator = tiny_stylegan3(**more)
    ws = generator.map(torch.randn(1, generator.z_dim))
    names = [layer.name for layer in generator.feature_layers]
    before = [*(generator.features(ws, name) for name in names), generator.synthesize(ws)]
    generator.synthesis.input.transform[0 if along == "x" else 1, 2] = eighths / 8
    after = [*(generator.features(ws, name) for name in names), generator.synthesize(ws)]
    for old, new in zip(before, after, strict=True):
        step_px = eighths * old.shape[3] // 8
        shifted = torch.roll(old, -step_px, dims=3 if along == "x" else 2)
        off_by_one = torch.roll(shifted, 1, dims=3 if along == "x" else 2)
        inside = slice(old.shape[3] // 4, -(old.shape[3] // 4))
        error = (new - shifted)[..., inside, inside].square().mean().sqrt()
        assert error < 0.01 * old.std()
        assert error < 0.1 * (new - off_by_one)[..., inside, inside].square().mean().sqrt()


def test_configuration_r_turns_with_the_canvas() -> None:
    generator = tiny_stylegan3(**CONFIG_R)
    ws = generator.map(torch.randn(1, generator.z_dim))
    before, features = generator.synthesize_with_features(ws, 16)
    generator.synthesis.input.transform.copy_(QUARTER_TURN)
    turned, turned_features = generator.synthesize_with_features(ws, 16)
    # The point (x, y) shows what was at (-y, x).
    assert torch.allclose(turned, torch.rot90(before, 1, (2, 3)), atol=1e-5)
    assert torch.allclose(turned_features, torch.rot90(features, 1, (2, 3)), atol=1e-5)
    assert not torch.allclose(turned, before, atol=1e-2)


def test_the_first_latent_poses_the_canvas() -> None:
    generator = tiny_stylegan3()
    ws = generator.map(torch.randn(1, generator.z_dim))
    by_transform, by_latent = generator.synthesis.input, tiny_stylegan3().synthesis.input
    # R (p - t) for a quarter turn R and a shift t: the latent's pose is of any length.
    by_latent.affine.bias.copy_(torch.tensor([0.0, 2.0, 0.5, -0.25]))
    shift = torch.eye(3)
    shift[:2, 2] = torch.tensor([-0.25, 0.125])
    by_transform.transform.copy_(QUARTER_TURN @ shift)
    assert torch.allclose(by_latent(ws[:, 0]), by_transform(ws[:, 0]), atol=1e-5)


def test_waves_above_the_cutoff_fade_out() -> None:
    generator = tiny_stylegan3()
    source, w = generator.synthesis.input, torch.zeros(1, 16)
    assert source(w).shape == (1, 8, 36, 36)
    assert float(source.freqs.norm(dim=1).max()) <= 2.0
    full = source(w).std()
    source.transform[:2, :2] *= 100.0
    assert full > 0.3
    assert source(w).abs().max() < 1e-6


def test_protocol_and_layer_bookkeeping() -> None:
    generator = tiny_stylegan3(64, channels=4, num_layers=6)
    assert isinstance(generator, Generator)
    assert generator.block_resolutions == [16, 32, 64]
    assert generator.image_size == (64, 64) and generator.num_ws == 8
    assert len(generator.feature_layers) == 6
    ws = generator.map(torch.randn(1, generator.z_dim))
    for at in [*generator.block_resolutions, *(layer.name for layer in generator.feature_layers)]:
        used = generator.ws_used_by(at)
        moved = ws.clone()
        moved[:, used:] += 1.0
        assert torch.equal(generator.features(moved, at), generator.features(ws, at))
        moved = ws.clone()
        moved[:, used - 1] += 1.0
        assert not torch.equal(generator.features(moved, at), generator.features(ws, at))
    for height in generator.block_resolutions:
        last = [layer.name for layer in generator.feature_layers if layer.height == height][-1]
        assert torch.equal(generator.features(ws, height), generator.features(ws, last))
    image, features = generator.synthesize_with_features(ws, 16)
    assert torch.equal(image, generator.synthesize(ws))
    assert torch.equal(features, generator.features(ws, 16))
    assert generator.noise_maps() == {}
    assert torch.equal(image, generator.synthesize(ws, "random", {"L0": torch.ones(1)}))


def test_truncation_pulls_to_the_mean() -> None:
    generator = tiny_stylegan3(16)
    z = torch.randn(3, generator.z_dim)
    assert torch.allclose(generator.map(z, truncation_psi=0.0), generator.w_avg.expand(3, generator.num_ws, -1))
    half = generator.map(z, truncation_psi=0.5, truncation_cutoff=2)
    whole = generator.map(z)
    assert torch.allclose(half[:, :2] - generator.w_avg, 0.5 * (whole[:, :2] - generator.w_avg), atol=1e-6)
    assert torch.equal(half[:, 2:], whole[:, 2:])


class Renderer(nn.Module):
    """A generator whose call renders."""

    def __init__(self, generator: StyleGAN3) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, ws: Tensor) -> Tensor:
        return self.generator.synthesize(ws)


@pytest.mark.parametrize("more", [{}, CONFIG_R])
def test_gradients_match_finite_differences(more: dict) -> None:
    generator = tiny_stylegan3(16, 4, 4, num_layers=4, margin_size=2, **more).double()
    generator.synthesis.input.affine.weight.normal_()
    renderer = Renderer(generator)
    weights = {name: value.clone() for name, value in renderer.named_parameters() if ".synthesis." in name}
    ws = torch.randn(2, generator.num_ws, 4, dtype=torch.float64)

    def render(ws: Tensor, *values: Tensor) -> Tensor:
        return functional_call(renderer, dict(zip(weights, values, strict=True)), (ws,))

    inputs = [value.requires_grad_() for value in (ws, *weights.values())]
    assert torch.autograd.gradcheck(render, inputs, fast_mode=True)
    gradients = torch.autograd.grad(render(*inputs).square().sum(), inputs)
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_half_precision_keeps_colours_and_waves() -> None:
    generator = tiny_stylegan3()
    ws = generator.map(torch.randn(1, generator.z_dim))
    exact = generator.synthesize(ws)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image, features = generator.synthesize_with_features(ws, 32)
        waves = generator.synthesis.input(ws[:, 0])
    assert image.dtype == waves.dtype == torch.float32 and features.dtype == torch.bfloat16
    assert torch.equal(waves, generator.synthesis.input(ws[:, 0]))
    assert 0 < (image - exact).square().mean().sqrt() < 0.05 * exact.std()


def test_activations_are_bounded() -> None:
    generator = tiny_stylegan3(conv_clamp=0.25)
    ws = generator.map(torch.randn(1, generator.z_dim))
    image, features = generator.synthesize_with_features(ws, 32)
    assert float(image.abs().max()) == 0.25 * 0.25
    assert float(features.abs().max()) < 0.5 < float(tiny_stylegan3().features(ws, 32).abs().max())
    assert torch.equal(generator.features(ws.requires_grad_(), 32), features)


def test_wrong_shapes_and_settings_are_named() -> None:
    generator = tiny_stylegan3(32, num_layers=3, num_critical=1)
    with pytest.raises(ModelError, match=r"takes ws of \[N, 5, 16\], not \[1, 18, 512\]"):
        generator.synthesize(torch.zeros(1, 18, 512))
    with pytest.raises(ModelError, match=r"no 64 px block: choose one of \[16, 32\]"):
        generator.features(torch.zeros(1, 5, 16), 64)
    with pytest.raises(ModelError, match=r"no layer L3_32_3: choose one of L0_36_8, L1_52_8, L2_32_8\.$"):
        generator.ws_used_by("L3_32_3")
    with pytest.raises(ModelError, match=r"takes z of \[N, 16\]"):
        generator.map(torch.zeros(1, 512))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"resolution": 100}, "with resolution=100 cannot be built: use 16, 32, 64, 128, 256, 512, 1024, 2048, 4096."),
        ({"resolution": 32.0}, "with resolution=32.0 cannot be built: use 16, 32, 64"),
        ({"conv_kernel": 2}, "with conv_kernel=2 cannot be built: use 1, 3, 5."),
        ({"lrelu_upsampling": 3}, "with lrelu_upsampling=3 cannot be built: use 1, 2, 4."),
        ({"use_radial_filters": 1}, "with use_radial_filters=1 cannot be built: use False, True."),
        ({"num_critical": 14}, "with num_critical=14 cannot be built: allowed are 1 to 13."),
        ({"channel_base": 1}, "cannot be built: allowed are 1 to 16384."),
        ({"z_dim": -1}, "with z_dim=-1 cannot be built: allowed are 1 to 16384."),
        ({"first_cutoff": 5.0}, "with first_cutoff=5.0 cannot be built: use more than 0 and less than 4.28709."),
        ({"first_stopband": math.nan}, "with first_stopband=nan cannot be built: use more than 1 and less than 16."),
        ({"last_stopband_rel": 1}, "with last_stopband_rel=1 cannot be built: use more than 1 and less than 16."),
        ({"conv_clamp": "256"}, "with conv_clamp='256' cannot be built: use more than 0 and less than inf."),
    ],
)
def test_a_shape_that_cannot_be_built_is_named(wrong: dict, sentence: str) -> None:
    with pytest.raises(ModelError) as caught:
        StyleGAN3Config(**({"resolution": 32} | wrong))
    assert sentence in str(caught.value)
