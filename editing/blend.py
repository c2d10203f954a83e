"""An edit of the crop, carried back into the photograph at its own resolution and bit depth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data.colour import colour_space
from data.photo import Photo
from editing.blend_common import BlendOutcome, BlendSettings, Change, check, edit_mask, rim_window
from editing.blend_difference import blend_difference
from editing.blend_flow import blend_flow
from editing.blend_paste import blend_pasted
from editing.flow import Guides

__all__ = ["BlendOutcome", "BlendSettings", "Change", "Guides", "blend", "edit_mask", "rim_window"]

METHODS = {
    "flow": blend_flow,
    "difference": blend_difference,
    "poisson": blend_pasted,
    "laplacian": blend_pasted,
    "crop": blend_pasted,
}


def blend(photo: Photo, change: Change, settings: BlendSettings | None = None) -> BlendOutcome:
    """The photo with the change in it, by the settings' method.

    Whatever the method: pixels where the outcome's mask is 0 are bit-identical to the photo's, a change of nothing
    returns the photo's pixels, and UsageError, one sentence, tells what does not fit together. The change's pictures
    are sRGB; a photo with another profile gets its colours in that.
    """
    settings = settings or BlendSettings()
    check(photo, change)
    space = colour_space(photo.icc)
    if space is not None:
        before, after = (space.from_srgb(np.clip(picture, -1, 1)) for picture in (change.before, change.after))
        change = replace(change, before=before, after=after)
    return METHODS[settings.method](photo, change, settings)
