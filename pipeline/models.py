"""The networks of a run: which generator and which perceptual distance it uses, and where their files lie."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import torch

from data.errors import ModelError, UsageError
from data.files import file_sha256
from data.landmarks import DESCRIPTOR_MODEL, model_path
from inversion.generators.checkpoint import open_checkpoint
from inversion.generators.letterbox import squared
from inversion.generators.protocol import Generator, LatentStats
from inversion.identity import FaceNetwork, load_face_network
from inversion.perceptual import FacePerceptual, Perceptual, backbone_path, load_lpips, missing_backbone
from inversion.speed import Speed, set_tf32
from pipeline.known_hashes import check_cached
from pipeline.zoo import cache_folder, cached_path

if TYPE_CHECKING:
    from pipeline.schema import GeneratorConfig, PerceptualConfig, RunConfig

T = TypeVar("T")


@dataclass(frozen=True, eq=False, slots=True)
class LoadedGenerator:
    """A generator with the file it came from and the latent statistics in it, if any."""

    module: Generator
    stats: LatentStats | None
    sha256: str
    path: Path


@dataclass(frozen=True, slots=True)
class PerceptualChoice:
    """The perceptual distance that a run uses (`face`, `lpips_vgg`, ...) and why; `folder` holds an LPIPS's trunk."""

    name: str
    reason: str
    folder: Path | None


def pick_device(name: str) -> torch.device:
    """The device that `device=auto|cpu|cuda` means here; UsageError when there is no CUDA device to take."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device is cuda, but torch finds no CUDA device here: give device=auto or device=cpu.")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def set_up_arithmetic(config: RunConfig) -> None:
    """The threads of this process and what its convolutions may round (`inversion.speed`), as a config says."""
    if config.threads:
        torch.set_num_threads(config.threads)
    set_tf32(cast(Speed, config.speed))


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


def generator_path(config: GeneratorConfig) -> Path:
    """The configured generator's file; ModelError when it belongs to the zoo and is not in the cache."""
    if config.path is not None:
        return Path(config.path)
    return embedded_generator() if config.name == "embedded" else cached_path(config.name)


def read_generator(config: GeneratorConfig, device: torch.device) -> LoadedGenerator:
    """The configured generator on the device, frozen; ModelError when its file is missing or damaged."""
    path = generator_path(config)
    sha256 = file_sha256(path) if path.is_file() else ""
    if sha256 and config.path is None:
        check_cached(path, sha256)
    with open_checkpoint(path) as checkpoint:
        module, stats = checkpoint.build().to(device), checkpoint.stats
    stats = None if stats is None else stats.to(device)
    return LoadedGenerator(squared(module), stats, sha256, path.absolute())


def choose_perceptual(config: PerceptualConfig) -> PerceptualChoice:
    """What `perceptual=...` means here: `auto` is LPIPS-VGG where its backbone is on this machine, else face features.

    Raises ModelError when an LPIPS is asked for whose backbone is not there.
    """
    folder = None if config.backbone_dir is None else Path(config.backbone_dir)
    if config.name == "face":
        return PerceptualChoice("face", "asked for", None)
    backbone = "vgg" if config.name == "auto" else config.name.removeprefix("lpips_")
    path = backbone_path(backbone, folder, cache_folder())
    if path.is_file():
        asked = "" if config.name == "auto" else "asked for, "
        return PerceptualChoice(f"lpips_{backbone}", f"{asked}backbone {path}", path.parent)
    if config.name != "auto":
        raise missing_backbone(backbone, path)
    reason = f"dlib's face features, as no LPIPS backbone is at {path}; photodrag models download lpips-vgg brings it"
    return PerceptualChoice("face", reason, None)


def read_face_network(device: torch.device) -> FaceNetwork:
    """dlib's face network on the device; ModelError when its file is missing."""
    return load_face_network(model_path(DESCRIPTOR_MODEL)).to(device).requires_grad_(False)


def read_perceptual(choice: PerceptualChoice, network: FaceNetwork | None, device: torch.device) -> Perceptual:
    """The chosen distance on the device; `network` saves reading the face network a second time."""
    if choice.name == "face":
        return FacePerceptual(network if network is not None else read_face_network(device))
    check_cached(backbone_path(choice.name.removeprefix("lpips_"), choice.folder, cache_folder()))
    lpips = load_lpips(choice.name.removeprefix("lpips_"), choice.folder)
    for module in (lpips.trunk, lpips.scaling, *lpips.linears):
        module.to(device)
    return lpips


class Models:
    """The networks that runs one after the other share: each is read once, and again when its file has changed.

    Of each kind only the last one is kept, so that a sweep over generators does not hold them all.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Hashable, object]] = {}

    def generator(self, config: GeneratorConfig, device: torch.device) -> LoadedGenerator:
        """As `read_generator`."""
        return self._once("generator", device, generator_path(config), lambda: read_generator(config, device))

    def face_network(self, device: torch.device) -> FaceNetwork:
        """As `read_face_network`."""
        return self._once("face", device, model_path(DESCRIPTOR_MODEL), lambda: read_face_network(device))

    def perceptual(self, choice: PerceptualChoice, network: FaceNetwork | None, device: torch.device) -> Perceptual:
        """As `read_perceptual`."""
        if choice.name == "face":
            return read_perceptual(choice, network if network is not None else self.face_network(device), device)
        path = backbone_path(choice.name.removeprefix("lpips_"), choice.folder, cache_folder())
        return self._once(choice.name, device, path, lambda: read_perceptual(choice, network, device))

    def _once(self, kind: str, device: torch.device, path: Path, read: Callable[[], T]) -> T:
        """What `read` gives, or gave when the file at `path` was the same; a missing file is left to `read`."""
        key = (str(device), _identity(path))
        kept_key, kept = self._kept.get(kind, (None, None))
        if kept_key == key and key[1] is not None:
            return cast(T, kept)
        self._kept.pop(kind, None)  # before reading, so that both are never held at once
        value = read()
        self._kept[kind] = (key, value)
        return value


def _identity(path: Path) -> Hashable | None:
    """What changes whenever a file is replaced or written to; None when it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return str(path.absolute()), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
