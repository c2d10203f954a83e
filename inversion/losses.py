"""Loss terms of inversion and tuning, all pure functions of tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from data.errors import UsageError
from inversion.identity import FaceNetwork
from inversion.perceptual import WHOLE_AND_FACE_VIEWS, Perceptual, PreparedTarget, cut_view

COLOR_GRID_PX = 16


@dataclass(frozen=True, slots=True)
class ReconstructionWeights:
    """Weights of the picture's terms: perceptual distance, pixel MSE, low-frequency colour MSE, squared distance of the
    face descriptors; 0 leaves one out."""

    perceptual: float = 1.0
    pixel: float = 1.0
    color: float = 1.0
    identity: float = 0.0

    def __post_init__(self) -> None:
        for name in ("perceptual", "pixel", "color", "identity"):
            value = getattr(self, name)
            if not value >= 0:
                raise UsageError(f"weights.{name}={value} is out of range: give a number of at least 0.")
        if self.perceptual + self.pixel + self.color == 0:
            raise UsageError("All of weights.perceptual, weights.pixel and weights.color are 0: raise one of them.")


@dataclass(frozen=True, eq=False, slots=True)
class Counting:
    """Where a picture counts, and how much.

    mask [N or 1, 1, R, R] in [0, 1]: 0 where it does not count at all, as outside the photo or behind a hand; None
    counts everything. focus [N or 1, 1, R, R] of at least 0: a factor of the pixel term, above 1 on eyes and mouth.
    """

    mask: Tensor | None = None
    focus: Tensor | None = None

    def of(self, index: int) -> Counting:
        """What concerns one picture of the batch."""
        return Counting(_one(self.mask, index), _one(self.focus, index))


def _one(x: Tensor | None, index: int) -> Tensor | None:
    return x if x is None or x.shape[0] == 1 else x[index : index + 1]


@dataclass(frozen=True, eq=False, slots=True)
class Targets:
    """What pictures are to become, and what likeness is seen with.

    pictures [N, 3, R, R] in [-1, 1]; `identity` is needed where its weight is not 0; `detail_px` is the crops' side in
    photo pixels: finer detail than that they do not have.
    """

    pictures: Tensor
    perceptual: Perceptual
    counting: Counting = field(default_factory=Counting)
    identity: FaceNetwork | None = None
    detail_px: float = math.inf

    def __len__(self) -> int:
        return len(self.pictures)

    def of(self, index: int) -> Targets:
        """One of them, as a batch of its own."""
        return replace(self, pictures=self.pictures[index : index + 1], counting=self.counting.of(index))


@dataclass(frozen=True, eq=False, slots=True)
class Rendered:
    """What a step drew: whole pictures [N, 3, r, r], and a full-resolution window of them [N, 3, t, t] where r is less
    than the target's R; `top`, `left` are the window's place in the full picture."""

    pictures: Tensor
    window: Tensor | None = None
    top: int = 0
    left: int = 0


class ReconstructionLoss:
    """How far pictures are from their targets; the targets' features and colours are computed once."""

    def __init__(self, targets: Targets, weights: ReconstructionWeights, size_px: int | None = None) -> None:
        """Pictures are compared at `size_px` (R when None), a divisor of R; what lies above is compared in windows."""
        whole, mask = targets.pictures, targets.counting.mask
        self.weights, self.perceptual, self.size_px = weights, targets.perceptual, size_px or whole.shape[-1]
        self._full = whole, None if mask is None or bool((mask == 1).all()) else mask, targets.counting.focus
        small = [None if x is None else area_shrunk(x, self.size_px) for x in self._full]
        assert small[0] is not None
        self.target, self.mask, self.focus = small[0], small[1], small[2]
        prepared = self.perceptual.prepare(self.target) if weights.perceptual else None
        self.prepared: PreparedTarget | None = prepared
        self._identity, self._descriptor = targets.identity if weights.identity else None, None
        if weights.identity:
            if self._identity is None:
                raise UsageError("weights.identity needs dlib's face network: `pip install face_recognition_models`.")
            with torch.no_grad():
                self._descriptor = whole_face_descriptor(self._identity, self.target)

    def __call__(self, images: Tensor | Rendered, step: int) -> Tensor:
        """Weighted sum of the terms, [N]."""
        drawn = Rendered(images) if isinstance(images, Tensor) else images
        pictures = drawn.pictures
        if self.mask is not None:
            pictures = pictures * self.mask + self.target * (1 - self.mask)
        difference = pictures - self.target
        total = pictures.new_zeros(pictures.shape[0])
        if self.weights.pixel:
            total = total + self.weights.pixel * (_weighted_mse(difference, self.focus) + self._detail(drawn))
        if self.weights.color:
            total = total + self.weights.color * low_frequency_mse(difference)
        if self.prepared is not None:
            total = total + self.weights.perceptual * self.perceptual.distance(self.prepared, pictures, step)
        if self._identity is not None and self._descriptor is not None:
            apart = whole_face_descriptor(self._identity, pictures) - self._descriptor
            total = total + self.weights.identity * apart.square().sum(dim=1)
        return total

    def _detail(self, drawn: Rendered) -> Tensor | float:
        """The pixel term's part above `size_px`, from the window: [N].

        Area means are an orthogonal projection, so the MSE at full resolution is the MSE of the means plus that of
        what they leave over; a window of the second, drawn anywhere, is an unbiased estimate of it.
        """
        if drawn.window is None:
            return 0.0
        side, (whole, mask, focus) = drawn.window.shape[-1], self._full
        place = (..., slice(drawn.top, drawn.top + side), slice(drawn.left, drawn.left + side))
        difference = drawn.window - whole[place]
        if mask is not None:
            difference = difference * mask[place]
        shrink = whole.shape[-1] // self.size_px
        means = F.interpolate(F.avg_pool2d(difference, shrink), scale_factor=float(shrink), mode="nearest")
        return _weighted_mse(difference - means, None if focus is None else focus[place])

    @property
    def num_views(self) -> int:
        """Steps after which the perceptual term has seen every view once."""
        return self.perceptual.num_views if self.weights.perceptual else 1


def _weighted_mse(difference: Tensor, focus: Tensor | None) -> Tensor:
    squared = difference.square()
    return (squared if focus is None else squared * focus).mean(dim=(1, 2, 3))


def area_shrunk(images: Tensor, size_px: int) -> Tensor:
    """[N, C, R, R] as area means [N, C, size, size]; size divides R."""
    shrink = images.shape[-1] // size_px
    return images if shrink == 1 else F.avg_pool2d(images, shrink)


def whole_face_descriptor(network: FaceNetwork, images: Tensor) -> Tensor:
    """dlib's descriptor [N, 128] of the face in aligned crops [N, 3, R, R]."""
    return network.descriptor(cut_view(images, WHOLE_AND_FACE_VIEWS[1]))


def low_frequency_mse(difference: Tensor) -> Tensor:
    """Mean square of the difference [N, 3, R, R] averaged over a 16 x 16 grid: colour and light, not detail. [N]."""
    side = min(COLOR_GRID_PX, difference.shape[-1])
    return F.adaptive_avg_pool2d(difference, side).square().mean(dim=(1, 2, 3))


def noise_regularizer(maps: Iterable[Tensor]) -> Tensor:
    """Autocorrelation of the noise maps [N, 1, r, r] at every scale down to 8 px (Karras et al. 2020, app. D): [N]."""
    total = torch.zeros(())
    for noise in maps:
        x = noise
        total = total.to(x.device)
        while True:
            for axis in (3, 2):
                total = total + (x * x.roll(1, dims=axis)).mean(dim=(1, 2, 3)).square()
            if x.shape[-1] <= 8:
                break
            x = F.avg_pool2d(x, 2)
    return total


def psnr_db(images: Tensor, target: Tensor, weight_mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB of images, both clamped to [-1, 1], over the masked pixels."""
    error = (images.clamp(-1, 1) - target.clamp(-1, 1)).square().mean(dim=1, keepdim=True)
    mse = float(error.mean() if weight_mask is None else (error * weight_mask).sum() / weight_mask.sum().clamp(min=1))
    return 10.0 * math.log10(4.0 / max(mse, 1e-12))
