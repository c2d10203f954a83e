"""An edit carried back as motion: the photograph's own pixels go where the generator's picture shows them going.

A generator's crop is 128 to 1024 px, a face in a photograph often more. Most edits are motion: the flow from the crop
before to the crop after (`editing.flow`) moves the photo's pixels at their own resolution, depth and grain. The
generator's pixels add only what motion cannot give, such as teeth between lips that part: the difference that is left
where the carried picture does not show what the edited one does.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from data.alignment import Alignment, Roi, crop_mask, warp_to_photo
from data.light import from_linear, to_linear
from data.photo import Photo
from editing.blend_common import (
    BlendOutcome,
    BlendSettings,
    Canvas,
    Change,
    as_grey,
    mask_of,
    rim_window,
    rising,
    row_bands,
    touched_roi,
    unchanged,
)
from editing.flow import WORK_SIDE_PX, Field, blurred, brightness, carried, estimate_flow, faded, unfolded

# Lengths are fractions of the crop's side, brightness is in [-1, 1].
AREA_SIGMA = 0.03  # coarser differences are of light and colour, not of something new
NEW_SIGMA = 1.2 / 128
NEW_FROM, NEW_WHOLE = 0.12, 0.30  # left differences that begin to count as new, and that are taken as a whole
RIM_SHARE = 0.25  # of the feather, at the crop's rim: motion ends softly by itself, and chins move near it
INNER_MARGIN = 3.0 / 128  # by which motion ends inside a mask that is given
WHOLE_FROM = 0.25  # of that mask: above, the carried photo replaces the photo; below, they mix
HASTY_SIDE_PX = 256
"""Side at which motion is found for a look on the way: a third of the time."""
LANCZOS_REACH_PX = 4
TILE_MAX_PX = 16000
"""OpenCV addresses no pictures of more than 32767 px a side."""


@dataclass(frozen=True, eq=False, slots=True)
class Carriage:
    """What a flow blend does, on the crop's pixels: `flow` [R,R,2] in crop pixels; `added` [R,R,3], fractions of full
    brightness, after it; `mask` [R,R], outside of which both are 0."""

    flow: Field
    added: Field
    mask: Field


def blend_flow(photo: Photo, change: Change, settings: BlendSettings) -> BlendOutcome:
    """The photo with its own pixels carried along the edit's motion, plus what motion cannot give.

    Resampling is Lanczos' in linear light. Pixels where the resulting mask is 0 are bit-identical to the input; equal
    pictures give the input's pixels. A photo's transparency moves with its pixels; a grey photo stays grey.
    """
    plan = carriage(change, settings, photo.is_grey)
    if not plan.mask.any():
        return unchanged(photo)
    canvas = Canvas.of(photo)
    if photo.alpha is not None:
        canvas = Canvas(photo, canvas.pixels, photo.alpha.copy(), canvas.mask)
    x0, y0, x1, y1 = touched_roi(change.alignment, plan.mask)
    for left in range(x0, x1, TILE_MAX_PX):
        right = min(x1, left + TILE_MAX_PX)
        for top, bottom in row_bands(right - left, (y0, y1)):
            _carry_band(canvas, change, plan, (left, top, right, bottom))
    return canvas.outcome()


def carriage(change: Change, settings: BlendSettings, grey: bool = False) -> Carriage:
    """The motion and the additions of an edit on the crop's pixels, with nothing outside its mask and no folds.

    Where it is known what may open, nothing new shows beside it: cheeks do not open, and what a generator draws there
    anew is a smudge. What a turning head uncovers is stretched from what lies beside it.
    """
    side = change.before.shape[0]
    before, after = (np.clip(x, -1, 1) for x in (change.before, change.after))
    mask = mask_of(change, settings, grey, rim=RIM_SHARE * settings.feather)
    bounds = mask
    if change.mask_photo is not None:
        given = crop_mask(change.mask_photo, change.alignment)
        mask = mask * (given > 0)
        bounds = bounds * _shrunk(given, INNER_MARGIN * side)
    if not mask.any():
        return Carriage(np.zeros((side, side, 2), np.float32), np.zeros_like(before), np.zeros_like(mask))
    found = estimate_flow(before, after, change.guides, HASTY_SIDE_PX if change.hasty else WORK_SIDE_PX)
    flow = unfolded(faded(found * bounds[..., None], mask))
    left = after - carried(before, flow)
    area = blurred(left, AREA_SIGMA * side)
    new = np.ones((side, side), np.float32)
    if settings.rest == "new":
        new = newness(left - area)
        if change.openings is not None:
            new = new * change.openings
    added = new[..., None] * left + (1 - new[..., None]) * np.float32(settings.tint) * area
    # Colours end at the crop's rim more softly than motion does: a border of colour is seen.
    added = np.asarray(added / 2 * (bounds * rim_window(side, settings.feather))[..., None], np.float32)
    return Carriage(flow, as_grey(added) if grey else added, mask)


def newness(left: Field) -> Field:
    """[R,R] in [0,1]: where a difference [R,R,3], without that of whole areas, shows something that was not there."""
    side = left.shape[0]
    strength = blurred(np.abs(brightness(left)), NEW_SIGMA * side)
    return blurred(rising((strength - NEW_FROM) / (NEW_WHOLE - NEW_FROM)).astype(np.float32), NEW_SIGMA * side)


def _shrunk(mask: Field, by_px: float) -> Field:
    """A mask that has faded to 0 within the given one's border."""
    radius = max(1, round(by_px))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    inner = np.asarray(cv2.erode(mask, disc, borderType=cv2.BORDER_REPLICATE), np.float32)
    return np.minimum(blurred(inner, radius / 2), mask)


def _carry_band(canvas: Canvas, change: Change, plan: Carriage, roi: Roi) -> None:
    """Write one region of the result."""
    x0, y0, x1, y1 = roi
    region, photo, alignment = np.s_[y0:y1, x0:x1], canvas.photo, change.alignment
    layers = np.concatenate([_in_photo(plan.flow, alignment), plan.mask[..., None]], axis=2)
    moves = warp_to_photo(layers, alignment, roi)
    weight = np.clip(moves[..., 2], 0, 1)
    if change.mask_photo is not None:
        weight *= np.clip(change.mask_photo[region], 0, 1)
    inside = weight > 0
    if not inside.any():
        return
    x = np.arange(x0, x1, dtype=np.float32) + moves[..., 0]
    y = np.arange(y0, y1, dtype=np.float32)[:, None] + moves[..., 1]
    light, alpha = _sampled(photo, x, y)
    share = rising(weight / np.float32(WHOLE_FROM)).astype(np.float32)
    stays = to_linear(photo.pixels[region])
    light = stays + share[..., None] * (light - stays)
    values = from_linear(light, photo.max_value)
    if plan.added.any():
        added = warp_to_photo(plan.added, alignment, roi) * np.float32(photo.max_value) * share[..., None]
        if photo.premultiplied and alpha is not None:
            added *= (alpha / np.float32(photo.max_value))[..., None]
        values += added
    _put(canvas.pixels[region], values, inside[..., None], photo.max_value)
    if canvas.alpha is not None and alpha is not None:
        still = canvas.alpha[region].astype(np.float32)
        _put(canvas.alpha[region], still + share * (alpha - still), inside, photo.max_value)
    canvas.mask[region] = weight


def _in_photo(flow: Field, alignment: Alignment) -> Field:
    """A flow in photo pixels instead of crop pixels."""
    turn = alignment.photo_from_crop[:2, :2].astype(np.float32)
    return flow @ turn.T


def _sampled(photo: Photo, x: Field, y: Field) -> tuple[Field, Field | None]:
    """Linear light [h,w,3] and transparency [h,w] of the photo at places in its pixels, edges repeated."""
    height, width = photo.shape_hw
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    left, top = (max(0, int(v.min()) - LANCZOS_REACH_PX) for v in (x, y))
    right, bottom = int(x.max()) + LANCZOS_REACH_PX + 1, int(y.max()) + LANCZOS_REACH_PX + 1
    part = np.s_[top:bottom, left:right]
    light = to_linear(photo.pixels[part])
    if photo.alpha is None:
        return _lanczos(light, x - left, y - top), None
    alpha = photo.alpha[part].astype(np.float32)
    if not photo.premultiplied:
        # What is transparent has no colour of its own to give.
        light = light * (alpha / np.float32(photo.max_value))[..., None]
    found = _lanczos(np.dstack([light, alpha]), x - left, y - top)
    opaque = np.clip(found[..., 3], 0, photo.max_value)
    light = found[..., :3]
    if not photo.premultiplied:
        light = light / np.maximum(opaque / np.float32(photo.max_value), 0.5 / photo.max_value)[..., None]
    return light, opaque


def _lanczos(source: Field, x: Field, y: Field) -> Field:
    found = cv2.remap(source, x, y, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found, np.float32).reshape(*x.shape, source.shape[2])


def _put(target: NDArray, values: Field, where: NDArray[np.bool_], max_value: int) -> None:
    np.copyto(target, np.clip(np.rint(values), 0, max_value).astype(target.dtype), where=where)
