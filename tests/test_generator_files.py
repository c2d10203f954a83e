"""`photodrag models inspect` and `convert`, and a run on files of other formats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from inversion.generators.checkpoint import load_generator, open_checkpoint
from inversion.generators.stylegan3 import StyleGAN3, StyleGAN3Config
from pipeline.artifacts import read_tensors
from pipeline.cli import main
from pipeline.models import pick_device
from tests.checkpoint_files import nvidia_pickle, rosinality_pt, small_weights, tensorflow_pickle
from tests.checkpoint_names import constructor_kwargs
from tests.runs import run_dir
from tests.tiny import tiny_generator


def pickled(path: Path, resolution: int = 16) -> Path:
    generator = tiny_generator(resolution)
    nvidia_pickle(path, dict(generator.state_dict()), constructor_kwargs(generator.config))
    return path


def test_inspect_tells_what_a_file_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = pickled(tmp_path / "network.pkl")
    assert main(["models", "inspect", str(path)]) == 0
    told = capsys.readouterr().out
    assert "nvidia: pickle of stylegan2-ada-pytorch or stylegan3" in told
    assert "stylegan2 (skip), 16 x 16 px, z 32, w 32" in told
    assert "embedded source  sha256 " in told and "not run" in told
    assert "licence          not in the file" in told


def test_inspect_of_stylegan3_and_of_what_is_no_generator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    config = StyleGAN3Config(
        16, z_dim=8, w_dim=8, channel_base=512, channel_max=8, conv_kernel=1, use_radial_filters=True
    )
    torch.save(StyleGAN3(config).state_dict(), tmp_path / "model.pt")
    assert main(["models", "inspect", str(tmp_path / "model.pt")]) == 0
    assert "stylegan3 R, 16 x 16 px" in capsys.readouterr().out
    (tmp_path / "text.pkl").write_text("hello")
    assert main(["models", "inspect", str(tmp_path / "text.pkl")]) == 1
    assert "is not a generator file of a known format" in capsys.readouterr().err


def test_convert_keeps_every_bit_and_tells_its_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = pickled(tmp_path / "network.pkl")
    out = tmp_path / "out.safetensors"
    assert main(["models", "convert", str(path), str(out), "licence=CC BY 4.0"]) == 0
    assert "stylegan2 (skip), 16 x 16 px" in capsys.readouterr().out
    generator = tiny_generator(16)
    found, _ = load_generator(out)
    assert all(torch.equal(found.state_dict()[name], value) for name, value in generator.state_dict().items())
    with open_checkpoint(out) as checkpoint:
        extra = checkpoint.extra
    assert extra["licence"] == "CC BY 4.0" and extra["source_format"] == "nvidia" and len(extra["source_sha256"]) == 64
    assert main(["models", "inspect", str(out)]) == 0
    assert "made from        network.pkl, sha256 " in capsys.readouterr().out


def test_convert_to_rosinality_and_to_half_precision(tmp_path: Path) -> None:
    path = pickled(tmp_path / "network.pkl")
    assert main(["models", "convert", str(path), str(tmp_path / "out.pt")]) == 0
    assert set(torch.load(tmp_path / "out.pt", weights_only=True)) == {"g_ema", "latent_avg"}
    assert main(["models", "convert", str(path), str(tmp_path / "half.safetensors"), "dtype=float16"]) == 0
    with open_checkpoint(tmp_path / "half.safetensors") as checkpoint:
        assert {value.dtype for value in checkpoint.tensors().values()} == {torch.float16}


def test_convert_fits_a_linear_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = pickled(tmp_path / "network.pkl"), tmp_path / "out.safetensors"
    assert main(["models", "convert", str(path), str(out), "start=120"]) == 0
    with open_checkpoint(out) as checkpoint:
        assert checkpoint.stats is not None and checkpoint.stats.start is not None
        assert checkpoint.stats.start.weight.shape == (3 * 16 * 16, 32)
    assert main(["models", "inspect", str(out)]) == 0
    assert "statistics in the file, and a linear start" in capsys.readouterr().out
    for words in (["start=7"], ["start=many"]):
        assert main(["models", "convert", str(path), str(tmp_path / "no.safetensors"), *words]) == 2
        assert "allowed is a number from 100 to 1000000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "followed by 0 files"),
        (["a", "b.pkl"], "ends in .pkl: allowed are .safetensors and .pt"),
        (["a", "b.safetensors", "dtype=int8"], "An option of photodrag models convert is unknown"),
    ],
)
def test_convert_says_how_it_is_used(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "convert", *words]) == 2
    assert message in capsys.readouterr().err


def test_convert_never_overwrites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = pickled(tmp_path / "network.pkl"), tmp_path / "out.safetensors"
    out.write_text("mine")
    assert main(["models", "convert", str(path), str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_a_tuned_run_leaves_whole_and_as_delta(
    finished_out: Path, generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_dir(finished_out)
    whole, delta, joined = (tmp_path / f"{name}.safetensors" for name in ("whole", "delta", "joined"))
    assert main(["models", "convert", str(run), str(whole)]) == 0
    assert main(["models", "convert", str(run), str(delta), "form=delta"]) == 0
    assert main(["models", "convert", str(delta), str(joined), f"base={generator}"]) == 0
    first, second = load_generator(whole)[0], load_generator(joined)[0]
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    face = json.loads((run / "manifest.json").read_text())["faces"][0]
    w = read_tensors(run / "invert" / face["keys"]["invert"][:16] / "tensors.safetensors")["w"]
    image = read_tensors(run / "tune" / face["keys"]["tune"][:16] / "tensors.safetensors")["image"]
    device = pick_device("auto")  # where the run was made
    drawn = first.to(device).synthesize(w.to(device)).cpu()
    assert torch.equal(drawn, image) if device.type == "cpu" else torch.allclose(drawn, image, atol=0.05)
    assert main(["models", "inspect", str(delta)]) == 0
    assert "weight delta of photodrag" in capsys.readouterr().out
    assert main(["models", "convert", str(delta), str(tmp_path / "wrong.safetensors")]) == 1
    assert "but the weights were tuned from" in capsys.readouterr().err
    assert main(["models", "convert", str(run), str(tmp_path / "two.safetensors"), "face=2"]) == 2
    assert "has no tuned face 2: tuned faces are 1" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["nvidia", "tensorflow", "rosinality", "stylegan3", "not square"])
def test_a_generated_picture_is_dragged_with_any_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    state, kwargs = small_weights(32, channels=8, w_dim=16)
    if kind == "nvidia":
        nvidia_pickle(path, state, kwargs)
    elif kind == "tensorflow":
        tensorflow_pickle(path, state, kwargs)
    elif kind == "rosinality":
        rosinality_pt(path, state)
    elif kind == "stylegan3":
        torch.manual_seed(0)
        module = StyleGAN3(StyleGAN3Config(32, z_dim=16, w_dim=16, channel_base=256, channel_max=8))
        torch.save(module.state_dict(), path)
    else:
        from inversion.generators.stylegan2 import StyleGAN2, StyleGAN2Config

        module = StyleGAN2(StyleGAN2Config(32, z_dim=16, w_dim=16, channel_base=256, channel_max=8, start_width=2))
        torch.save(module.state_dict(), path)
    words = ["stages=[sample,edit]", f"generator.path={path}", f"out={tmp_path / 'out'}", "edit.steps=3"]
    assert main([*words, "edit.points=[[15,15,17,15]]", "progress=false"]) == 0
    assert (run_dir(tmp_path / "out") / "edited.png").is_file()


def test_a_file_of_the_zoo_keeps_its_licence(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache.mkdir()
    path = pickled(cache / "stylegan2-ffhq-256.pkl")
    assert main(["models", "inspect", "stylegan2-ffhq-256"]) == 0
    assert "licence          NVIDIA Source Code License (non-commercial)" in capsys.readouterr().out
    assert main(["models", "convert", str(path), str(tmp_path / "out.safetensors")]) == 0
    with open_checkpoint(tmp_path / "out.safetensors") as checkpoint:
        assert checkpoint.extra["licence"] == "NVIDIA Source Code License (non-commercial)"
