"""The blend stage: what the edits of a photo's faces changed, carried back into the photo one face after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from data.alignment import Crop
from data.errors import ModelError, NoFaceError, UsageError
from data.label import Corner, label_photo
from data.landmarks import steady_landmarks
from data.photo import Photo, read_mask
from data.provenance import Signing, read_signing
from data.regions import openings_mask
from editing.blend import BlendSettings, Change, Guides
from editing.blend import blend as carry_back
from editing.blend_common import count_changed, row_bands
from pipeline.locating import faces_in_crop
from pipeline.outputs import Blended, Dragged
from pipeline.pictures import image_u8, preview
from pipeline.progress import Console, watched_steps
from pipeline.stages import FORMATS, pixels_of
from pipeline.stitching import Artist, stitched

if TYPE_CHECKING:
    from pipeline.schema import BlendConfig


def blend(
    photo: Photo,
    changes: Sequence[tuple[Crop, Dragged]],
    config: BlendConfig,
    artists: Sequence[Artist] = (),
    console: Console | None = None,
) -> Blended:
    """Every edited face carried back into the photo in turn; where a drag's mask is 0 it changes nothing.

    A later face is carried back into what the earlier ones left, so that faces whose crops overlap keep both edits.
    `blend.stitch` needs an artist for each change; no other setting asks them for anything.
    """
    if config.stitch and len(artists) != len(changes):
        raise UsageError(
            f"blend.stitch is {config.stitch}, but {len(artists)} generators are at hand for {len(changes)} "
            "edited faces: give what draws each face, or blend.stitch=0."
        )
    user_mask = None if config.mask is None else read_mask(config.mask, photo.shape_hw)
    result = photo
    mask: NDArray[np.float32] | None = None
    for number, (crop, dragged) in enumerate(changes, 1):
        before, after = pixels_of(dragged.start), pixels_of(dragged.edited.image)
        bounds = user_mask if dragged.mask is None else dragged.mask
        if user_mask is not None and dragged.mask is not None:
            # A mask is larger than an 8-bit photo: for the last face the product takes the place of the user's.
            bounds = np.multiply(user_mask, dragged.mask, out=user_mask if number == len(changes) else None)
        guides, openings = matches_of(dragged) if config.method == "flow" else (None, None)
        change = Change(crop.alignment, before, after, bounds, guides, openings)
        settings = blend_settings(config, dragged.told)
        if config.stitch:
            name = "stitch" if len(changes) == 1 else f"stitch {number}/{len(changes)}"
            with watched_steps(console or Console(progress=False), name) as on_step:
                artist, grey = artists[number - 1], photo.is_grey
                change = stitched(change, crop, dragged, artist, settings, config.stitch, grey, on_step)
        outcome = carry_back(result, change, settings)
        result, mask = outcome.photo, outcome.mask if mask is None else _joined(mask, outcome.mask)
        del outcome, change, bounds
    del user_mask
    if mask is None:
        mask = np.zeros(photo.shape_hw, np.float32)
    if config.label is not None:
        result, labelled = label_photo(result, config.label, cast("Corner", config.label_corner))
        mask[labelled] = 1
    changed = count_changed(photo, result.pixels)
    original = preview(photo.to_u8())
    format = FORMATS[config.format]
    return Blended(result, original, mask, changed / mask.size, format, config.quality, signing_of(config))


def _joined(mask: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """`mask` [H,W] with the greater of both, in place; rows in which the other is 0 are not written to, so that memory
    that was never used stays so."""
    for top, bottom in row_bands(mask.shape[1], (0, mask.shape[0])):
        if other[top:bottom].any():
            np.maximum(mask[top:bottom], other[top:bottom], out=mask[top:bottom])
    return mask


def signing_of(config: BlendConfig) -> Signing | None:
    """What the result is signed with; UsageError where that cannot be. None where no signature is wanted."""
    certificates, key = config.c2pa_certificates, config.c2pa_key
    if certificates is None and key is None:
        return None
    if certificates is None or key is None:
        raise UsageError(
            "blend.c2pa_certificates and blend.c2pa_key go together: give both files to sign the result, or none"
        )
    return read_signing(certificates, key)


def try_marks(photo: Photo, config: BlendConfig) -> None:
    """Refuse a label or a signature that cannot be made now, not after minutes of work."""
    signing_of(config)
    if config.label is not None:
        label_photo(photo, config.label, cast("Corner", config.label_corner))


def blend_settings(config: BlendConfig, told: Sequence[Mapping[str, Any]]) -> BlendSettings:
    """The config's settings, with what `auto` means for these edits: a direction changes colours that are meant."""
    chosen: dict[str, Any] = {field.name: getattr(config, field.name) for field in fields(BlendSettings)}
    if config.rest == "auto":
        chosen["rest"] = "all" if any(edit.get("direction") for edit in told) else "new"
    return BlendSettings(**chosen)


def quick_matches(
    box: tuple[float, float, float, float] | None, before: np.ndarray, image: np.ndarray
) -> tuple[Guides | None, np.ndarray | None]:
    """As `matches_of`, for a picture on the way: landmarks [68, 2] in the face's box of the first picture, which hold
    for small moves. image: the present picture, [R, R, 3] uint8. (None, None) without a box."""
    if box is None:
        return None, None
    after = steady_landmarks(image, [box])
    return Guides(before, after), openings_mask(before, after, len(image))


def matches_of(dragged: Dragged) -> tuple[Guides | None, np.ndarray | None]:
    """Points of the crop that match before and after the edits: the face's landmarks, where one is found in both, and
    what one edit dragged by hand; and where it may open."""
    edited, openings, pairs = dragged.edited, None, list[tuple[np.ndarray, np.ndarray]]()
    first, second = image_u8(dragged.start), image_u8(edited.image)
    try:
        boxes = [faces_in_crop(first)[0].box]
        before = after = steady_landmarks(first, boxes)
        openings = openings_mask(before, after, len(first))
        boxes.append(faces_in_crop(second)[0].box)
        before, after = steady_landmarks(first, boxes), steady_landmarks(second, boxes)
        openings = openings_mask(before, after, len(first))
        pairs.append((before, after))
    except (NoFaceError, ModelError):
        pass  # an edit may leave no face that is found: what may open is then where it was before
    if len(dragged.told) == 1 and dragged.told[0].get("points"):
        tracks = edited.tracks.double().numpy()
        pairs.append((tracks[0], tracks[round(edited.metrics["best_step"])]))
    if not pairs:
        return None, openings
    return Guides(*(np.concatenate(points) for points in zip(*pairs, strict=True))), openings
