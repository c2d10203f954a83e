"""Measures of how near a reconstruction came to its photo, apart for face, background and border (pure)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from inversion.losses import psnr_db
from inversion.perceptual import Perceptual

COMPARED_PX = 256
"""Size at which pictures of every generator are compared alike: smaller ones are enlarged, larger ones reduced."""
BORDER_SHARE = 0.04
"""Width of the border ring in sides of the crop."""
MS_SSIM_MIN_PX = 176
"""Least size for five scales of MS-SSIM, whose window of 11 px must fit into a sixteenth of the picture."""
DATA_RANGE = 2.0
"""SSIM compares mean lights, so its black must be 0: pictures in [-1, 1] are lifted to [0, 2] for it."""


def border_ring(size_px: int) -> Tensor:
    """[1, 1, R, R]: 1 on the outermost BORDER_SHARE of the picture (at least one pixel), 0 inside of it."""
    width_px = max(1, round(BORDER_SHARE * size_px))
    ring = torch.ones(1, 1, size_px, size_px)
    ring[..., width_px : size_px - width_px, width_px : size_px - width_px] = 0
    return ring


def regions_of(inside: Tensor, face: Tensor | None) -> dict[str, Tensor]:
    """Where each region is, [1, 1, R, R] in [0, 1]; one that lies nowhere in the photo is left out.

    inside [1, 1, R, R]: 1 where the crop lies in the photo. face [1, 1, R, R] in [0, 1]: None leaves out face and
    background. The border overlaps both.
    """
    found = {"whole": inside, "border": inside * border_ring(inside.shape[-1]).to(inside)}
    if face is not None:
        found |= {"face": inside * face, "background": inside * (1 - face)}
    return {name: weight for name, weight in found.items() if float(weight.sum()) >= 1}


def resampled(images: Tensor, size_px: int = COMPARED_PX) -> Tensor:
    """[N, C, R, R] at another size: antialiased bicubic both ways (torch's, a = -0.5), the same for every picture."""
    if images.shape[-1] == size_px:
        return images
    return F.interpolate(images, (size_px, size_px), mode="bicubic", align_corners=False, antialias=True)


def reconstruction_metrics(
    stage: str, image: Tensor, target: Tensor, inside: Tensor, face: Tensor | None = None
) -> dict[str, float]:
    """PSNR, SSIM and MS-SSIM of a reconstruction, at its native size and at COMPARED_PX.

    image, target [1, 3, R, R] in [-1, 1] (clamped); inside, face as in `regions_of`. Gives
    `psnr_<region>_<size>_<stage>_db`, `ssim_<region>_<size>_<stage>` and `ms_ssim_<size>_<stage>` with the sizes
    `native` and `256`. Outside the photo both pictures are the target's: no window sees what the generator drew there.
    """
    target = target.clamp(-1, 1)
    image = image.clamp(-1, 1) * inside + target * (1 - inside)
    regions = regions_of(inside, face)
    found = _at_one_size(f"native_{stage}", image, target, regions)
    smooth = {name: resampled(weight).clamp(0, 1) for name, weight in regions.items()}
    return found | _at_one_size(f"{COMPARED_PX}_{stage}", resampled(image), resampled(target), smooth)


def _at_one_size(suffix: str, image: Tensor, target: Tensor, regions: Mapping[str, Tensor]) -> dict[str, float]:
    image, target = image.clamp(-1, 1), target.clamp(-1, 1)
    similarity = ssim_map(image, target)
    found = {f"psnr_{name}_{suffix}_db": psnr_db(image, target, weight) for name, weight in regions.items()}
    for name, weight in regions.items():
        found[f"ssim_{name}_{suffix}"] = float((similarity * weight).sum() / weight.sum())
    if image.shape[-1] >= MS_SSIM_MIN_PX:
        found[f"ms_ssim_{suffix}"] = ms_ssim(image, target)
    return found


@torch.no_grad()
def ssim_map(image: Tensor, target: Tensor) -> Tensor:
    """SSIM (Wang et al. 2004, eq. 13) at each pixel, a mean over the colours: [N, 1, R, R] in [-1, 1], 1 where equal.

    image, target in [-1, 1]; Gaussian window of 11 px (sigma 1.5), K1 = 0.01, K2 = 0.03.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    _, full = structural_similarity_index_measure(
        image.float() + 1, target.float() + 1, data_range=DATA_RANGE, reduction="none", return_full_image=True
    )
    return full.mean(dim=1, keepdim=True)


@torch.no_grad()
def ms_ssim(image: Tensor, target: Tensor) -> float:
    """MS-SSIM (Wang et al. 2003, five scales with the paper's exponents) of pictures in [-1, 1] of at least
    MS_SSIM_MIN_PX."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    found = multiscale_structural_similarity_index_measure(image.float() + 1, target.float() + 1, data_range=DATA_RANGE)
    assert isinstance(found, Tensor)
    return float(found)


@torch.no_grad()
def perceptual_distance(perceptual: Perceptual, image: Tensor, target: Tensor) -> float:
    """The perceptual distance of pictures [1, 3, R, R], a mean over one turn of its views."""
    prepared = perceptual.prepare(target)
    turns = [perceptual.distance(prepared, image, step) for step in range(perceptual.num_views)]
    return float(torch.cat(turns).mean())


def landmark_error_percent(found: Tensor, wanted: Tensor) -> float:
    """Mean distance of landmarks [68, 2] from the wanted ones, in percent of the wanted face's inter-ocular distance.

    The eyes are the means of landmarks 36 to 41 and 42 to 47 (iBUG's numbering from 0).
    """
    eyes_px = (wanted[36:42].mean(dim=0) - wanted[42:48].mean(dim=0)).norm()
    return float(100 * (found - wanted).norm(dim=1).mean() / eyes_px)
