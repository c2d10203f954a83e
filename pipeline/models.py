"""The networks of a run: which generator and which perceptual distance it uses, and where their files lie."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from data.errors import ModelError, UsageError
from data.landmarks import DESCRIPTOR_MODEL, model_path
from inversion.generators.checkpoint import load_generator, read_stats
from inversion.generators.protocol import LatentStats
from inversion.generators.stylegan2 import StyleGAN2
from inversion.identity import FaceNetwork, load_face_network
from inversion.perceptual import FacePerceptual, Perceptual, backbone_path, load_lpips

if TYPE_CHECKING:
    from pipeline.schema import GeneratorConfig, PerceptualConfig


@dataclass(frozen=True, eq=False, slots=True)
class LoadedGenerator:
    """A generator with the file it came from and the latent statistics in it, if any."""

    module: StyleGAN2
    stats: LatentStats | None
    sha256: str
    path: Path


@dataclass(frozen=True, slots=True)
class PerceptualChoice:
    """The perceptual distance that a run uses (`face`, `lpips_vgg`, ...) and why."""

    name: str
    reason: str
    folder: Path | None


def pick_device(name: str) -> torch.device:
    """The device that `device=auto|cpu|cuda` means here; UsageError when there is no CUDA device to take."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device is cuda, but torch finds no CUDA device here: give device=auto or device=cpu.")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def embedded_generator() -> Path:
    """File of the generator that comes with the package; ModelError when this installation lacks it."""
    folder = Path(str(resources.files("data"))) / "embedded"
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"This installation has no embedded generator (nothing in {folder}): install photodrag again, or give one "
            "with generator.path=FILE.safetensors."
        )
    return files[0]


def read_generator(config: GeneratorConfig, device: torch.device) -> LoadedGenerator:
    """The configured generator on the device, frozen; ModelError when its file is missing or damaged."""
    path = embedded_generator() if config.path is None else Path(config.path)
    module, sha256 = load_generator(path)
    stats = read_stats(path)
    return LoadedGenerator(module.to(device), None if stats is None else stats.to(device), sha256, path.absolute())


def choose_perceptual(config: PerceptualConfig) -> PerceptualChoice:
    """What `perceptual=...` means here: `auto` is LPIPS-VGG where its backbone is on this machine, else face features.

    Raises ModelError when an LPIPS is asked for whose backbone is not there.
    """
    folder = None if config.backbone_dir is None else Path(config.backbone_dir)
    if config.name == "face":
        return PerceptualChoice("face", "asked for", folder)
    if config.name != "auto":
        path = backbone_path(config.name.removeprefix("lpips_"), folder)
        if not path.is_file():
            load_lpips(config.name.removeprefix("lpips_"), folder)
        return PerceptualChoice(config.name, f"asked for, backbone {path}", folder)
    path = backbone_path("vgg", folder)
    if path.is_file():
        return PerceptualChoice("lpips_vgg", f"backbone {path}", folder)
    return PerceptualChoice("face", f"dlib's face features, as there is no LPIPS backbone at {path}", folder)


def read_face_network(device: torch.device) -> FaceNetwork:
    """dlib's face network on the device; ModelError when its file is missing."""
    return load_face_network(model_path(DESCRIPTOR_MODEL)).to(device).requires_grad_(False)


def read_perceptual(choice: PerceptualChoice, network: FaceNetwork | None, device: torch.device) -> Perceptual:
    """The chosen distance on the device; `network` saves reading the face network a second time."""
    if choice.name == "face":
        return FacePerceptual(network if network is not None else read_face_network(device))
    lpips = load_lpips(choice.name.removeprefix("lpips_"), choice.folder)
    for module in (lpips.trunk, lpips.scaling, *lpips.linears):
        module.to(device)
    return lpips
