"""Drags of points given by hand: watched by the detector where they are a crowd on a face's landmarks, and by none of
them is a face lost."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from editing.drag import DragSettings, DragStep, Edited, drag
from editing.drag_task import Person
from editing.kept_face import drag_keeping_face
from editing.points import Points
from editing.watched_drag import drag_watched
from inversion.generators.protocol import Generator, NoiseMaps
from pipeline.locating import crowd_finder, shows_face
from pipeline.pictures import image_u8


def drag_by_hand(
    generator: Generator,
    w: Tensor,
    noise: NoiseMaps | None,
    start: Tensor,
    handles: Points,
    targets: Points,
    mask: Tensor | None,
    settings: DragSettings,
    on_step: Callable[[DragStep], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    person: Person | None = None,
    watch: bool = True,
) -> Edited:
    """Drag handles to targets [N, 2] in crop pixels; w [1, L, D] and its picture `start` [1, 3, R, R], about [-1, 1].

    mask [1, 1, R, R] in [0, 1], 1 where the picture may change. A drag ends no farther than a face is seen, if one was
    there at its start. watch False leaves the detector out; a line search is not steered by it. UsageError for points,
    masks or settings that do not fit the generator.
    """
    may_watch = watch and settings.tracker != "line_search"
    find = crowd_finder(image_u8(start), handles) if may_watch else None
    asked = (handles, targets, mask, settings, on_step, should_stop, person)
    if find is not None:
        return drag_watched(generator, w, noise, find, *asked)
    return drag_keeping_face(generator, w, noise, shows_face, *asked) if watch else drag(generator, w, noise, *asked)
