"""Stitching tuning of a face's edit before the blend carries it back (`editing.stitch`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from data.alignment import Crop, crop_mask
from editing.blend import BlendSettings, Change
from editing.blend_common import mask_of
from editing.blend_flow import RIM_SHARE
from editing.stitch import StitchSettings, StitchStep, stitch, stitch_parts
from inversion.generators.protocol import Generator, NoiseMaps
from pipeline.outputs import Dragged
from pipeline.stages import pixels_of

Artist = Callable[[], tuple[Generator, Tensor, NoiseMaps | None, Tensor]]
"""Gives what draws a face before its edits, when it is needed: tuned generator, latent, noise, and their picture."""

PASTES = ("crop", "laplacian", "poisson")
"""The methods that put the edited crop itself into the photo."""


def stitched(
    change: Change,
    crop: Crop,
    dragged: Dragged,
    artist: Artist,
    settings: BlendSettings,
    steps: int,
    grey: bool = False,
    on_step: Callable[[StitchStep], None] | None = None,
) -> Change:
    """The change with another picture after it, which meets the photo's crop round the edit, and the mask that it had.

    The ring shall look as the photo does for the methods that put the crop itself into it, but as before the edit for
    those that add what changed (difference, flow): what the generator misses of the photo cancels out there. `grey`:
    whether the photo is. The mask stays that of the edit, as the tuning changes the picture elsewhere, too.
    """
    mask = mask_of(change, settings, grey, RIM_SHARE * settings.feather if settings.method == "flow" else None)
    bounded = mask if change.mask_photo is None else mask * crop_mask(change.mask_photo, crop.alignment)
    inside, ring = stitch_parts(bounded, settings.feather)
    generator, start, noise, before = artist()
    target = torch.from_numpy(crop.image) if settings.method in PASTES else before
    after = stitch(
        generator,
        dragged.edited.w.to(start),
        noise,
        target.to(start),
        dragged.edited.image.to(start),
        torch.from_numpy(inside)[None, None].to(start),
        torch.from_numpy(ring[None, None] * crop.inside).to(start),
        StitchSettings(steps),
        on_step,
    )
    return replace(change, after=pixels_of(after), mask_crop=mask)
