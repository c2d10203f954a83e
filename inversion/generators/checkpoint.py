"""Our own generator files: safetensors with the architecture as JSON in the header. Nothing in them is executed."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from data.errors import ModelError
from data.files import file_sha256, sync_folder
from inversion.generators.protocol import LatentStats
from inversion.generators.stylegan2 import StyleGAN2, StyleGAN2Config

HEADER_KEY = "photodrag_generator"
STATS_PREFIX = "stats."


def load_generator(path: Path) -> tuple[StyleGAN2, str]:
    """Read a generator file: the module (float32, eval, frozen) and the file's sha256.

    Raises ModelError when the file is missing, damaged, of another kind, or does not fit its own architecture.
    """
    if not path.is_file():
        raise ModelError(f"There is no generator file at {path}: give generator.path=FILE.safetensors.")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER_KEY)
            names = [name for name in file.keys() if not name.startswith(STATS_PREFIX)]  # noqa: SIM118
            state = {name: file.get_tensor(name).float() for name in names}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a readable safetensors file ({error}).") from error
    if header is None:
        raise ModelError(f"{path} is a safetensors file without a photodrag generator header ('{HEADER_KEY}').")
    generator = StyleGAN2(_config_from(header, path))
    try:
        generator.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ModelError(f"The weights in {path} do not fit the architecture in its header: {error}") from error
    return generator.eval().requires_grad_(False), file_sha256(path)


def _config_from(header: str, path: Path) -> StyleGAN2Config:
    try:
        fields = json.loads(header)["stylegan2"]
        return StyleGAN2Config(**fields)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"The generator header of {path} cannot be read ({error}).") from error


def read_stats(path: Path) -> LatentStats | None:
    """The statistics of the latent space that a generator file carries, or None when it has none.

    Raises ModelError when they do not belong together.
    """
    with safe_open(str(path), framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(STATS_PREFIX)]  # noqa: SIM118
        found = {name.removeprefix(STATS_PREFIX): file.get_tensor(name).float() for name in names}
    if not found:
        return None
    width = found.get("w_avg", torch.empty(0)).numel()
    shapes = {"w_avg": (width,), "w_std": (), "pn_mean": (width,), "pn_whiten": (width, width)}
    if {name: tuple(value.shape) for name, value in found.items()} != shapes:
        raise ModelError(f"The latent statistics in {path} are damaged: write the generator file again.")
    return LatentStats(found["w_avg"], float(found["w_std"]), found["pn_mean"], found["pn_whiten"])


def save_generator(
    generator: StyleGAN2,
    path: Path,
    extra: dict[str, object] | None = None,
    dtype: torch.dtype = torch.float16,
    stats: LatentStats | None = None,
) -> None:
    """Write a generator file atomically, weights as `dtype`; `extra` (JSON values) is kept beside the architecture.

    `stats` are kept as float32 tensors beside the weights, so that whoever opens the file need not sample them again.
    """
    header = {"stylegan2": dataclasses.asdict(generator.config), "extra": extra or {}}
    state = {name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in generator.state_dict().items()}
    if stats is not None:
        kept = {name: getattr(stats, name) for name in ("w_avg", "w_std", "pn_mean", "pn_whiten")}
        state |= {
            STATS_PREFIX + name: torch.as_tensor(value).float().cpu().contiguous() for name, value in kept.items()
        }
    write_atomically(path, save(state, metadata={HEADER_KEY: json.dumps(header, sort_keys=True)}))


def write_atomically(path: Path, blob: bytes) -> None:
    """Write bytes to a temporary name in the same folder, sync, rename, sync the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
        sync_folder(path.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
