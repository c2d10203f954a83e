"""The measure stage: how near a face's pivot and its tuned picture came to the crop, and how well it can be edited."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from data.alignment import Crop
from data.errors import ModelError, NoFaceError
from data.regions import face_mask
from inversion.generators.letterbox import canvas_of
from inversion.generators.protocol import Generator
from inversion.identity import FaceNetwork
from inversion.metrics import landmark_error_percent, perceptual_distance, reconstruction_metrics, resampled
from inversion.perceptual import FacePerceptual, Perceptual, backbone_path, load_lpips
from pipeline.locating import faces_in_crop
from pipeline.pictures import image_u8
from pipeline.progress import Console
from pipeline.zoo import cache_folder

if TYPE_CHECKING:
    from pipeline.schema import PerceptualConfig

LPIPS_TRUNKS = ("alex", "vgg")
SHARED_WITH_LOSS = {
    "face": ("face_features", "face_distance"),
    "lpips_vgg": ("lpips_vgg",),
    "lpips_alex": ("lpips_alex",),
}
"""Measures whose network is that of a perceptual distance: after an optimisation through it they flatter."""


@dataclass(frozen=True, eq=False, slots=True)
class Instruments:
    """The networks that measure: dlib's face features, None without their file, and an LPIPS for each trunk."""

    face: FacePerceptual | None
    lpips: Mapping[str, Perceptual]


@dataclass(frozen=True, eq=False, slots=True)
class Subject:
    """What a face's pictures are measured against.

    target [1, 3, R, R] in [-1, 1]; inside [1, 1, R, R]: 1 in the photo; face [1, 1, R, R] in [0, 1] or None without
    landmarks; landmarks: those [68, 2] that dlib finds in the target itself, crop pixels, None when it finds no face.
    """

    target: Tensor
    inside: Tensor
    face: Tensor | None
    landmarks: np.ndarray | None


def lpips_trunks(config: PerceptualConfig) -> dict[str, Path]:
    """The LPIPS trunks on this machine's disk, by name."""
    folder = None if config.backbone_dir is None else Path(config.backbone_dir)
    paths = {name: backbone_path(name, folder, cache_folder()) for name in LPIPS_TRUNKS}
    return {name: path for name, path in paths.items() if path.is_file()}


def read_instruments(
    network: FaceNetwork | None, trunks: Mapping[str, Path], device: torch.device, console: Console
) -> Instruments:
    """The networks on the device; a damaged trunk is told of and left out."""
    lpips: dict[str, Perceptual] = {}
    for name, path in trunks.items():
        try:
            model = load_lpips(name, path.parent)
        except ModelError as error:
            console.warn(f"LPIPS-{name} is not measured: {error}")
            continue
        for module in (model.trunk, model.scaling, *model.linears):
            module.to(device)
        lpips[name] = model
    return Instruments(None if network is None else FacePerceptual(network), lpips)


def subject_of(crop: Crop, target: Tensor, generator: Generator) -> Subject:
    """The crop as something to measure against, on the device of `target` [1, 3, R, R]."""
    inside, canvas = torch.from_numpy(crop.inside), canvas_of(generator)
    inside = (inside if canvas is None else inside * canvas.cpu()).to(target)
    found = _landmarks_in(target)
    known = crop.alignment.landmarks
    outline = found if known is None else crop.alignment.to_crop(known)
    size = target.shape[-1]
    face = None if outline is None else torch.from_numpy(face_mask(outline, size))[None, None].to(target)
    return Subject(target, inside, face, found)


def likeness_figures(stage: str, image: Tensor, subject: Subject, instruments: Instruments) -> dict[str, float]:
    """Every measure of one picture [1, 3, R, R] that can be had; each name ends in the stage and then its unit.

    PSNR, SSIM and MS-SSIM by region (`inversion.metrics`); `lpips_<trunk>_256_<stage>`; `face_features_<stage>`, the
    distance that perceptual=face optimises; `landmarks_<stage>_percent` of the inter-ocular distance, by dlib's
    68-point predictor, which no loss knows. What lies outside the photo is the target's in all of them.
    """
    target, inside, image = subject.target.clamp(-1, 1), subject.inside, image.to(subject.target)
    found = reconstruction_metrics(stage, image, target, inside, subject.face)
    filled = image.clamp(-1, 1) * inside + target * (1 - inside)
    if instruments.face is not None:
        found[f"face_features_{stage}"] = perceptual_distance(instruments.face, filled, target)
    for name, lpips in instruments.lpips.items():
        pair = (resampled(picture).clamp(-1, 1) for picture in (filled, target))
        found[f"lpips_{name}_256_{stage}"] = perceptual_distance(lpips, *pair)
    if subject.landmarks is not None:
        seen = _landmarks_in(image, subject.landmarks)
        if seen is not None:
            pair = (torch.from_numpy(points) for points in (seen, subject.landmarks))
            found[f"landmarks_{stage}_percent"] = landmark_error_percent(*pair)
    return found


def _landmarks_in(image: Tensor, near: np.ndarray | None = None) -> np.ndarray | None:
    """Landmarks [68, 2] of the largest face in [1, 3, R, R], or of the one nearest to the landmarks `near`."""
    try:
        faces = faces_in_crop(image_u8(image))
    except (NoFaceError, ModelError):
        return None
    if near is None:
        return faces[0].landmarks
    middle = near.mean(axis=0)
    return min((face.landmarks for face in faces), key=lambda points: float(np.hypot(*(points.mean(axis=0) - middle))))


def shared_with(losses: Collection[str | None]) -> list[str]:
    """The measures that share a network with one of the named perceptual distances."""
    return sorted({name for loss in losses if loss is not None for name in SHARED_WITH_LOSS.get(loss, ())})
