"""Dense motion between two pictures of a crop: where in the first each place of the second comes from.

Optical flow (DIS, Kroeger et al. 2016) between what a generator drew before and after an edit, smoothed where it is in
doubt and, where matching points are known, such as a face's landmarks, bent to them: a generator redraws what it moves,
so colours alone tell two thirds of the motion that landmarks show (89 presets on six tuned photos). Nothing folds: the
photograph's own pixels are carried along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from editing.points import Points

Field = NDArray[np.float32]

WORK_SIDE_PX = (
    512  # pictures are brought to this side: DIS finds motions of a small crop's half pixels only in a larger one
)
PATCH_PX, PATCH_STRIDE_PX = 8, 3
FINEST_SCALE = 1  # flow is computed at half the working side
REFINEMENTS, SMOOTHNESS = 10, 30.0  # of DIS's variational refinement

# Lengths below are fractions of the crop's side.
RETURN_ERROR = 0.6 / 128  # there and back: a flow that misses its start by so much is trusted by 1/e
MATCH_SIGMA = 1.0 / 128  # over which the carried picture is compared with the second
MATCH_ERROR = 0.25  # of brightness in [-1, 1]: a difference that is trusted by 1/e
EDGE_SIGMA, EDGE_HALF = 1.5 / 128, 0.15  # brightness slope at which half is trusted: flat places tell no motion
FLAT_TRUST = 0.03
SMOOTHING = ((2.5 / 128, 1.0), (5.0 / 128, 0.1), (10.0 / 128, 0.01))
"""(sigma, weight): trusted motion spreads to where none is, near places first."""
GUIDE_SIGMA = 5.0 / 128  # round a matching point, in which the flow is bent to it
GUIDE_PRIOR = 0.1  # of the flow as it was, in points: one point alone is not quite believed
GUIDE_NOISE = 0.1 / 128  # what detectors err by; of a point's miss, so much is not made up for
LEAST_STRETCH = 0.3  # of the area round a place: less is smoothed until it is as much
FADE_SLOPE = 0.65  # pixels of length that a flow may gain with each pixel from where it must be 0
MOST_SLOPE = 0.8  # pixels that a flow may change by from one to the next: more shears what it carries
UNFOLD_ROUNDS, UNFOLD_SIGMA = 40, 2.0 / 128

LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
"""Rec. 709 weights of R, G, B."""


@dataclass(frozen=True, eq=False, slots=True)
class Guides:
    """Matching points of two pictures, [N, 2] each, in crop pixels."""

    before: Points
    after: Points


def estimate_flow(before: Field, after: Field, guides: Guides | None = None, work_side_px: int = WORK_SIDE_PX) -> Field:
    """[R, R, 2] float32 in crop pixels: `after` shows at p what `before` shows at p + flow(p).

    before, after: [R, R, 3] float32 RGB in [-1, 1]. Equal pictures give zeros. Not yet fold-free (see `unfolded`).
    work_side_px: the side to which pictures are brought.
    """
    if np.array_equal(before, after):
        return np.zeros((*before.shape[:2], 2), np.float32)
    forth, back = _dis(after, before, work_side_px), _dis(before, after, work_side_px)
    flow = _smoothed(forth, trust_of(before, after, forth, back))
    return flow if guides is None else guided(flow, guides)


def trust_of(before: Field, after: Field, forth: Field, back: Field) -> Field:
    """[R, R] in [0, 1]: how far a flow is to be believed, by its way back, by what it carries there and by edges."""
    side = before.shape[0]
    missed = np.linalg.norm(forth + carried(back, forth), axis=2)
    first, second = brightness(before), brightness(after)
    unlike = blurred(np.abs(second - carried(first, forth)), MATCH_SIGMA * side)
    slope = np.abs(cv2.Sobel(first, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(first, cv2.CV_32F, 0, 1))
    edge = blurred(slope, EDGE_SIGMA * side)
    trust = np.exp(-((missed / (RETURN_ERROR * side)) ** 2) - (unlike / MATCH_ERROR) ** 2)
    return np.asarray(trust * (FLAT_TRUST + edge / (edge + EDGE_HALF)), np.float32)


def guided(flow: Field, guides: Guides) -> Field:
    """The flow, bent towards matching points: near each by what it misses there, less the detector's noise."""
    side = flow.shape[0]
    if not len(guides.after):
        return flow
    missed = (guides.before - guides.after) - sampled(flow, guides.after)
    length = np.linalg.norm(missed, axis=1, keepdims=True)
    missed *= np.maximum(0.0, 1.0 - GUIDE_NOISE * side / np.maximum(length, 1e-9))
    y, x = np.mgrid[:side, :side].astype(np.float32)
    total, weight = np.zeros_like(flow), np.full((side, side), GUIDE_PRIOR, np.float32)
    for (px, py), miss in zip(guides.after.astype(np.float32), missed.astype(np.float32), strict=True):
        near = np.exp(((x - px) ** 2 + (y - py) ** 2) / np.float32(-2 * (GUIDE_SIGMA * side) ** 2))
        total += near[..., None] * miss
        weight += near
    return np.asarray(flow + total / weight[..., None], np.float32)


def faded(flow: Field, within: Field) -> Field:
    """The flow, 0 where `within` [R, R] is 0, and before that no longer than FADE_SLOPE times the distance to there."""
    inside = (within > 0).astype(np.uint8)
    away = cv2.distanceTransform(np.pad(inside, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    longest = FADE_SLOPE * np.maximum(away - 1, 0)
    length = np.maximum(np.linalg.norm(flow, axis=2), 1e-6)
    return np.asarray(flow * np.minimum(1, longest / length)[..., None], np.float32)


def unfolded(flow: Field) -> Field:
    """The flow, smoothed where it would fold the picture, squeeze it to less than LEAST_STRETCH of it or shear it."""
    side = flow.shape[0]
    for _ in range(UNFOLD_ROUNDS):
        bad = torn(flow)
        if not bad.any():
            return flow
        share = np.clip(3.0 * blurred(bad.astype(np.float32), UNFOLD_SIGMA * side), 0, 1)[..., None]
        flow = np.asarray(flow + share * (blurred(flow, UNFOLD_SIGMA * side) - flow), np.float32)
    return np.asarray(flow * _until_whole(flow), np.float32)


def torn(flow: Field) -> NDArray[np.bool_]:
    """[R, R]: where a flow folds, squeezes or shears too much."""
    steep = np.max([np.abs(part) for axis in (0, 1) for part in np.gradient(flow[..., axis])], axis=0)
    return (stretch(flow) < LEAST_STRETCH) | (steep > MOST_SLOPE)


def stretch(flow: Field) -> Field:
    """[R, R]: the area of `before`, in pixels, that one pixel of `after` is carried from; below 0 it is folded."""
    x_down, x_across = np.gradient(flow[..., 0])
    y_down, y_across = np.gradient(flow[..., 1])
    return np.asarray((1 + x_across) * (1 + y_down) - x_down * y_across, np.float32)


def carried(picture: Field, flow: Field) -> Field:
    """[R, R] or [R, R, C]: the picture carried along, picture(p + flow(p)), cubic, edges repeated."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.asarray(
        cv2.remap(picture, x + flow[..., 0], y + flow[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE),
        np.float32,
    )


def sampled(field: Field, points: Points) -> Points:
    """Values [N, C] of a field [R, R, C] at points [N, 2] (x, y), linear, edges repeated."""
    x, y = (np.ascontiguousarray(points[:, axis, None], np.float32) for axis in (0, 1))
    return cv2.remap(field, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0].astype(np.float64)


def brightness(picture: Field) -> Field:
    """[R, R] of [R, R, 3] RGB."""
    return np.asarray(picture @ LUMA, np.float32)


def blurred(field: Field, sigma_px: float) -> Field:
    """Gaussian, edges repeated."""
    return np.asarray(cv2.GaussianBlur(field, (0, 0), max(sigma_px, 0.3), borderType=cv2.BORDER_REPLICATE), np.float32)


def _dis(first: Field, second: Field, work_side_px: int) -> Field:
    """Flow [R, R, 2] with first(p) = second(p + flow(p)), in crop pixels."""
    side = first.shape[0]
    method = cv2.INTER_CUBIC if side < work_side_px else cv2.INTER_AREA
    size = (work_side_px, work_side_px)
    grey = [
        np.clip(cv2.resize((brightness(x) + 1) * 127.5, size, interpolation=method).round(), 0, 255).astype(np.uint8)
        for x in (first, second)
    ]
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(FINEST_SCALE)
    dis.setPatchSize(PATCH_PX)
    dis.setPatchStride(PATCH_STRIDE_PX)
    dis.setVariationalRefinementIterations(REFINEMENTS)
    dis.setVariationalRefinementAlpha(SMOOTHNESS)
    start = np.zeros((work_side_px, work_side_px, 2), np.float32)
    flow = np.asarray(dis.calc(grey[0], grey[1], start), np.float32) * np.float32(side / work_side_px)
    method = cv2.INTER_AREA if side < work_side_px else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(flow, (side, side), interpolation=method), np.float32)


def _smoothed(flow: Field, trust: Field, scales: Sequence[tuple[float, float]] = SMOOTHING) -> Field:
    """Weighted means of the flow round every place, of near places and, where these are in doubt, of farther ones."""
    side = flow.shape[0]
    total, weight = np.zeros_like(flow), np.full(trust.shape, 1e-6, np.float32)
    for sigma, share in scales:
        total += share * blurred(trust[..., None] * flow, sigma * side)
        weight += share * blurred(trust, sigma * side)
    return np.asarray(total / weight[..., None], np.float32)


def _until_whole(flow: Field) -> float:
    """The largest of a few factors with which nothing is torn."""
    return next((k for k in (1.0, 0.8, 0.6, 0.4, 0.2) if not torn(np.float32(k) * flow).any()), 0.0)
