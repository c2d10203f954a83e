"""Where a crop counts in inversion and tuning: inside the photo, and where `invert.mask` says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from data.alignment import Alignment, Crop, crop_mask, warp_to_photo
from data.errors import NoFaceError, UsageError
from data.files import file_sha256
from data.landmarks import find_faces
from data.photo import read_mask
from data.regions import eyes_and_mouth_mask, face_mask, hull_mask
from inversion.generators.letterbox import canvas_of
from inversion.generators.protocol import Generator, LatentStats
from inversion.losses import Counting
from inversion.occlusion import find_covers
from inversion.perceptual import Perceptual
from pipeline.pictures import image_u8

if TYPE_CHECKING:
    from pipeline.schema import InvertConfig

PAINTED = "counts"
"""What white means in a painted `invert.mask`, as its sentences say it."""


def counting_key(config: InvertConfig) -> str:
    """What `invert.mask` means, for a stage's key: its word, or the SHA-256 of its file."""
    return config.mask if config.mask_path is None else file_sha256(Path(config.mask_path))


def drawn_part(crop: Crop, generator: Generator) -> Tensor:
    """[1, 1, R, R], 1 where the crop lies inside the photo and the generator draws."""
    inside, canvas = torch.from_numpy(crop.inside), canvas_of(generator)
    return inside if canvas is None else inside * canvas.to(inside)


def counting_of(
    config: InvertConfig,
    crop: Crop,
    generator: Generator,
    stats: LatentStats | None,
    perceptual: Perceptual,
    seed: int,
    device: torch.device,
) -> Counting:
    """The mask and the focus that `invert.mask` and `invert.focus` mean for a crop, on the device.

    `auto` fits the generator coarsely and takes out what it cannot draw. Raises NoFaceError when a part of the face is
    asked for and there is none, UsageError when nothing of the crop would count.
    """
    mask = drawn_part(crop, generator).to(device)
    if config.mask_path is not None:
        painted = read_mask(config.mask_path, crop.alignment.photo_shape, PAINTED)
        mask = mask * mask_on_crop(painted, crop.alignment).to(device)
    elif config.mask in ("face", "hull"):
        outline = face_mask if config.mask == "face" else hull_mask
        mask = mask * _part(outline(_on_crop(crop, f"invert.mask={config.mask}"), crop.alignment.size), device)
    elif config.mask == "auto":
        target, rng = torch.from_numpy(crop.image).to(device), torch.Generator().manual_seed(seed)
        mask = mask * find_covers(generator, target, perceptual, rng, mask, _face_or_none(crop, device), stats)
    if float(mask.sum()) < 1:
        raise UsageError(
            f"invert.mask={config.mask} leaves nothing of the aligned crop that counts: paint more of the face white, "
            "or use invert.mask=none."
        )
    if config.focus == 1:
        return Counting(mask)
    looked_at = eyes_and_mouth_mask(_on_crop(crop, f"invert.focus={config.focus:g}"), crop.alignment.size)
    return Counting(mask, 1 + (config.focus - 1) * _part(looked_at, device))


def _part(mask: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(mask)[None, None].to(device)


def _on_crop(crop: Crop, asked: str) -> np.ndarray:
    """Landmarks [68, 2] in crop pixels."""
    word = "invert.mask=none or auto" if "mask" in asked else "invert.focus=1"
    return crop.alignment.to_crop(landmarks_of(crop, asked, f"use {word}, or paint where it counts as a PNG"))


def _face_or_none(crop: Crop, device: torch.device) -> Tensor | None:
    try:
        return _part(face_mask(_on_crop(crop, "invert.mask=auto"), crop.alignment.size), device)
    except NoFaceError:
        return None


def landmarks_of(crop: Crop, asked: str, mend: str) -> np.ndarray:
    """Landmarks [68, 2] in photo pixels: the alignment's own, or those of the largest face in the crop's picture.

    Raises NoFaceError that names the setting that asked for them and what mends it.
    """
    if crop.alignment.landmarks is not None:
        return crop.alignment.landmarks
    try:
        face = find_faces(image_u8(torch.from_numpy(crop.image)), upsample_max=3)[0]
    except NoFaceError as error:
        raise NoFaceError(f"{asked} needs a face, and none was found in this picture: {mend}.") from error
    return crop.alignment.to_photo(face.landmarks)


def mask_on_crop(mask: np.ndarray, alignment: Alignment) -> Tensor:
    """A mask [H, W] float32 in [0, 1] in photo pixels, resampled to [1, 1, R, R] crop pixels."""
    return torch.from_numpy(crop_mask(mask, alignment))[None, None]


def mask_on_photo(mask: Tensor, alignment: Alignment) -> np.ndarray:
    """A crop's mask [1, 1, R, R] in [0, 1] as [H, W] float32 in photo pixels; beyond the crop its border goes on."""
    height, width = alignment.photo_shape
    values = np.ascontiguousarray(mask[0, 0].cpu().numpy()[..., None], np.float32)
    found = warp_to_photo(values, alignment, (0, 0, width, height))[..., 0]
    return np.clip(found, 0, 1, out=found)
