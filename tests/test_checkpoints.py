"""Generator files of every format: opened by content, with the image that their weights give, and written again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.errors import ModelError
from inversion.generators.checkpoint import load_generator, open_checkpoint, save_generator, write_safetensors
from inversion.generators.exports import WeightDelta, read_delta, tuned_state, write_delta, write_rosinality
from inversion.generators.protocol import Generator
from inversion.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from inversion.generators.stylegan3 import StyleGAN3, StyleGAN3Config
from tests.checkpoint_files import module_pt, nvidia_pickle, rosinality_pt, state_dict_pt, tensorflow_pickle
from tests.checkpoint_names import constructor_kwargs
from tests.checkpoint_objects import SOURCE
from tests.test_generator import FIXTURES, needs_fixtures
from tests.tiny import tiny_generator

Write = Callable[[Path, dict[str, Tensor], dict[str, Any]], None]

STYLEGAN2_FORMATS: dict[str, tuple[str, Write]] = {
    **{
        f"nvidia-{protocol}-{numpy_path}": (
            "nvidia",
            lambda path, state, kwargs, p=protocol, n=numpy_path: nvidia_pickle(
                path, state, kwargs, protocol=p, numpy_path=n
            ),
        )
        for protocol in (2, 3, 4)
        for numpy_path in ("numpy.core", "numpy._core")
    },
    "nvidia-bare": ("nvidia", lambda path, state, kwargs: nvidia_pickle(path, state, kwargs, whole=False)),
    "nvidia-ada": ("nvidia", lambda path, state, kwargs: nvidia_pickle(path, state, kwargs, nested=True)),
    "tensorflow-2": ("tensorflow", lambda path, state, kwargs: tensorflow_pickle(path, state, kwargs, protocol=2)),
    "tensorflow-3": ("tensorflow", lambda path, state, kwargs: tensorflow_pickle(path, state, kwargs, protocol=3)),
    "tensorflow-4": ("tensorflow", tensorflow_pickle),
    "module-zip": ("module", module_pt),
    "module-legacy": ("module", lambda path, state, kwargs: module_pt(path, state, kwargs, zip=False)),
    "state-zip": ("state_dict", lambda path, state, kwargs: state_dict_pt(path, state)),
    "state-legacy": ("state_dict", lambda path, state, kwargs: state_dict_pt(path, state, zip=False)),
    "state-prefix": ("state_dict", lambda path, state, kwargs: state_dict_pt(path, state, prefix="G_ema.")),
    "state-nested": ("state_dict", lambda path, state, kwargs: state_dict_pt(path, state, nested=True)),
}
ROSINALITY: dict[str, Write] = {
    "zip": lambda path, state, kwargs: rosinality_pt(path, state),
    "legacy": lambda path, state, kwargs: rosinality_pt(path, state, zip=False),
    "bare": lambda path, state, kwargs: rosinality_pt(path, state, whole=False),
}


def rendered(generator: Generator, cut: int = 2) -> Tensor:
    """Two pictures of fixed z, with labels where the generator takes them."""
    rng = torch.Generator().manual_seed(5)
    z = torch.randn(cut, generator.z_dim, generator=rng)
    c = torch.eye(generator.c_dim)[:1].repeat(cut, 1) if generator.c_dim else None
    return generator.synthesize(generator.map(z, c, truncation_psi=0.7))


def written(tmp_path: Path, write: Write, generator: StyleGAN2) -> Path:
    """A file of a format; its name says nothing."""
    path = tmp_path / "model.bin"
    write(path, dict(generator.state_dict()), constructor_kwargs(generator.config))
    return path


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize("name", STYLEGAN2_FORMATS)
def test_every_format_gives_the_picture(name: str, architecture: str, tmp_path: Path) -> None:
    generator = tiny_generator(16, architecture=architecture)
    expected, write = STYLEGAN2_FORMATS[name]
    path = written(tmp_path, write, generator)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == expected
        assert checkpoint.notes == ()
        found = checkpoint.build()
        assert (checkpoint.source_sha256 is not None) == (expected in ("nvidia", "module"))
    exact = expected != "tensorflow"  # there mod_bias is kept less 1
    for key, value in generator.state_dict().items():
        close = torch.equal if exact else (lambda a, b: torch.allclose(a, b, atol=1e-6))
        assert close(found.state_dict()[key], value), key
    assert (rendered(found) - rendered(generator)).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["nvidia-4-numpy.core", "nvidia-ada", "tensorflow-4", "module-zip", "state-zip"])
def test_conditional_generators(name: str, tmp_path: Path) -> None:
    generator = tiny_generator(16, c_dim=3)
    path = written(tmp_path, STYLEGAN2_FORMATS[name][1], generator)
    found, _ = load_generator(path)
    assert found.c_dim == 3
    assert (rendered(found) - rendered(generator)).abs().max() < 1e-4


@pytest.mark.parametrize("name", ROSINALITY)
def test_rosinality_gives_the_picture(name: str, tmp_path: Path) -> None:
    generator = tiny_generator(16, w_dim=16)
    path = written(tmp_path, ROSINALITY[name], generator)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "rosinality"
        found = checkpoint.build()
        notes = checkpoint.notes
    ws = generator.map(torch.randn(2, 16))
    assert (found.synthesize(ws) - generator.synthesize(ws)).abs().max() < 1e-4
    if name == "bare":
        assert notes == ("The file has no mean latent; the mean of 10,000 mapped samples takes its place.",)
        sampled = found.map(torch.randn(20000, 16))[:, 0]
        assert (found.w_avg - sampled.mean(dim=0)).norm() < 0.1 * sampled.std() * 16**0.5
    else:
        assert torch.equal(found.w_avg, generator.w_avg)


@needs_fixtures
def test_rosinality_agrees_with_reference(tmp_path: Path) -> None:
    with np.load(FIXTURES / "rosinality.npz") as archive:
        arrays = {key: torch.from_numpy(archive[key]) for key in archive.files}
    state = {key.removeprefix("state/"): value for key, value in arrays.items() if key.startswith("state/")}
    path = tmp_path / "rosinality.pt"
    torch.save({"g_ema": state, "latent_avg": arrays["latent_avg"]}, path)
    with open_checkpoint(path) as checkpoint:
        found = checkpoint.build()
        assert (found.map(arrays["in/z"])[:, 0] - arrays["out/mapping"]).abs().max() < 1e-4
        assert (found.synthesize(arrays["in/ws"]) - arrays["out/image_const"]).abs().max() < 1e-4
        again = tmp_path / "again.pt"
        write_rosinality(again, checkpoint.config, checkpoint.tensors())
    back = torch.load(again, weights_only=True)
    assert set(back["g_ema"]) == set(state)
    assert all(torch.equal(back["g_ema"][name], value) for name, value in state.items())
    assert torch.equal(back["latent_avg"], arrays["latent_avg"])


STYLEGAN3 = {
    "T": StyleGAN3Config(16, z_dim=16, w_dim=16, channel_base=256, channel_max=12),
    "R": StyleGAN3Config(
        16, z_dim=16, w_dim=16, c_dim=2, channel_base=512, channel_max=16, conv_kernel=1, use_radial_filters=True
    ),
}


def stylegan3_kwargs(config: StyleGAN3Config) -> dict[str, Any]:
    """The published constructor's arguments, those that differ from its defaults."""
    kwargs: dict[str, Any] = {"z_dim": config.z_dim, "c_dim": config.c_dim, "w_dim": config.w_dim}
    kwargs |= {"img_resolution": config.resolution, "img_channels": 3, "mapping_kwargs": {"num_layers": 2}}
    kwargs |= {"channel_base": config.channel_base, "channel_max": config.channel_max}
    kwargs |= {"magnitude_ema_beta": 0.9995, "num_fp16_res": 4}
    if config.use_radial_filters:
        kwargs |= {"conv_kernel": 1, "use_radial_filters": True}
    return kwargs


@pytest.mark.parametrize("name", STYLEGAN3)
@pytest.mark.parametrize("kind", ["nvidia", "module", "state_dict", "safetensors"])
def test_stylegan3_files(kind: str, name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = StyleGAN3(STYLEGAN3[name]).eval().requires_grad_(False)
    state, kwargs = dict(generator.state_dict()), stylegan3_kwargs(STYLEGAN3[name])
    path = tmp_path / "model.bin"
    if kind == "nvidia":
        nvidia_pickle(path, state, kwargs)
    elif kind == "module":
        module_pt(path, state, kwargs, nested=False)
    elif kind == "state_dict":
        state_dict_pt(path, state)
    else:
        save_generator(generator, path, dtype=torch.float32)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == kind
        found = checkpoint.build()
    assert all(torch.equal(found.state_dict()[key], value) for key, value in state.items())
    assert torch.equal(rendered(found), rendered(generator))


def test_non_square_pictures(tmp_path: Path) -> None:
    config = StyleGAN2Config(32, z_dim=16, w_dim=16, channel_base=512, channel_max=16, start_width=2)
    generator = StyleGAN2(config).eval().requires_grad_(False)
    nvidia_pickle(tmp_path / "human.pkl", dict(generator.state_dict()), constructor_kwargs(config))
    found, _ = load_generator(tmp_path / "human.pkl")
    assert found.image_size == (32, 16)
    assert torch.equal(rendered(found), rendered(generator))
    assert rendered(found).shape == (2, 3, 32, 16)


def test_irregular_channels_and_half_precision(tmp_path: Path) -> None:
    config = StyleGAN2Config(16, z_dim=16, w_dim=16, block_channels=(12, 5, 9))
    generator = StyleGAN2(config).eval().requires_grad_(False)
    state_dict_pt(tmp_path / "model.pt", dict(generator.state_dict()), dtype=torch.float16)
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        assert checkpoint.config == replace(config, channel_base=144, channel_max=12)
        assert all(value.dtype == torch.float16 for value in checkpoint.tensors().values())
        found = checkpoint.build()
    assert torch.equal(found.synthesis.b8.conv1.weight, generator.synthesis.b8.conv1.weight.half().float())


@pytest.mark.parametrize("name", ["nvidia-4-numpy.core", "tensorflow-3", "module-zip", "state-legacy"])
def test_conversion_keeps_every_bit(name: str, tmp_path: Path) -> None:
    generator = tiny_generator(16)
    path = written(tmp_path, STYLEGAN2_FORMATS[name][1], generator)
    with open_checkpoint(path) as checkpoint:
        first = checkpoint.tensors()
        write_safetensors(tmp_path / "ours.safetensors", checkpoint.config, first, {"licence": "a licence"})
    with open_checkpoint(tmp_path / "ours.safetensors") as checkpoint:
        second = checkpoint.tensors()
        assert checkpoint.extra == {"licence": "a licence"}
    assert set(first) == set(second)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_rosinality_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    generator = tiny_generator(16)
    write_rosinality(tmp_path / "out.pt", generator.config, generator.state_dict())
    with open_checkpoint(tmp_path / "out.pt") as checkpoint:
        found = checkpoint.tensors()
    for key, value in generator.state_dict().items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize(
    ("config", "lacks"),
    [
        (STYLEGAN3["T"], "another architecture than StyleGAN2"),
        (StyleGAN2Config(16, architecture="resnet"), "the resnet architecture"),
        (StyleGAN2Config(16, c_dim=3), "labels"),
        (StyleGAN2Config(16, z_dim=64), "z of 64 and w of 512 numbers"),
        (StyleGAN2Config(16, mapping_lr_multiplier=1.0), "lr_multiplier 1"),
        (StyleGAN2Config(16, start_width=2), "not square"),
    ],
)
def test_rosinality_says_what_it_cannot_hold(config: Any, lacks: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"cannot hold this generator: it has .*{lacks}"):
        write_rosinality(tmp_path / "out.pt", config, {})
    assert list(tmp_path.iterdir()) == []


def test_delta_and_base_are_the_tuned_generator(tmp_path: Path) -> None:
    generator = tiny_generator(16)
    rng = torch.Generator().manual_seed(2)
    weight = "synthesis.b8.conv0.weight"
    change = {weight: torch.randn(generator.state_dict()[weight].shape, generator=rng)}
    noise = {"b8.conv1": torch.randn(8, 8, generator=rng)}
    write_delta(tmp_path / "delta.safetensors", WeightDelta("ab" * 32, change, noise, {"face": "1"}))
    delta = read_delta(tmp_path / "delta.safetensors")
    assert delta is not None and delta.base_sha256 == "ab" * 32
    state = tuned_state(dict(generator.state_dict()), delta)
    assert torch.equal(state[weight], generator.state_dict()[weight] + change[weight])
    assert torch.equal(state["synthesis.b8.conv1.noise_const"], noise["b8.conv1"])
    save_generator(generator, tmp_path / "whole.safetensors")
    assert read_delta(tmp_path / "whole.safetensors") is None
    with pytest.raises(
        ModelError, match=r"does not fit this generator: .synthesis\.b8\.conv0\.weight. .* has no place"
    ):
        tuned_state(dict(tiny_generator(16, channels=8).state_dict()), delta)
    with pytest.raises(ModelError, match="weight delta"):
        open_checkpoint(tmp_path / "delta.safetensors")


def test_opening_reads_no_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, STYLEGAN2_FORMATS["nvidia-4-numpy.core"][1], tiny_generator(64, channels=32))
    largest = []
    real = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **kw: largest.append(size) or real(*size, **kw))
    with open_checkpoint(path) as checkpoint:
        assert largest == []
        assert checkpoint.parameters > 100_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "is a PNG picture, not a generator"),
        (b"<!DOCTYPE html><html>", "is a web page: the download needs another link, or a login"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a git-lfs pointer"),
        (b"hello", "is not a generator file of a known format"),
    ],
)
def test_other_files_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        open_checkpoint(path)


def test_tensors_must_fit_the_architecture(tmp_path: Path) -> None:
    generator = tiny_generator(16)
    state = dict(generator.state_dict())
    write_safetensors(tmp_path / "large.safetensors", StyleGAN2Config(1024, channel_max=4096), state)
    with pytest.raises(ModelError, match=r"do not fit a stylegan2 of 1024 px: .* should be \[.*\] and is "):
        load_generator(tmp_path / "large.safetensors")
    write_safetensors(tmp_path / "more.safetensors", generator.config, state | {"synthesis.extra": torch.ones(2)})
    with pytest.raises(ModelError, match=r"synthesis\.extra does not belong to it"):
        load_generator(tmp_path / "more.safetensors")
    path = tmp_path / "family.safetensors"
    write_safetensors(path, generator.config, state)
    path.write_bytes(path.read_bytes().replace(b"stylegan2", b"stylegan9"))
    with pytest.raises(ModelError, match="family 'stylegan9' is unknown; known here are stylegan2, stylegan3"):
        load_generator(path)


def test_the_source_in_a_pickle_is_only_hashed(tmp_path: Path) -> None:
    import hashlib

    path = written(tmp_path, STYLEGAN2_FORMATS["nvidia-4-numpy.core"][1], tiny_generator(16))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.source_sha256 == hashlib.sha256(SOURCE.encode()).hexdigest()
    assert json.dumps(checkpoint.extra) == "{}"
