"""The typed settings of an edit: what moves where, and how."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from data.errors import UsageError
from pipeline.validation import check_fields, knob

PRESETS = (
    "smile",
    "open_mouth",
    "close_mouth",
    "raise_brows",
    "open_eyes",
    "close_eyes",
    "bigger_eyes",
    "frown",
    "turn_left",
    "turn_right",
    "look_up",
    "look_down",
    "tilt",
    "slimmer_face",
    "wider_face",
    "slim",
)
"""The names of `editing.presets`, which is not imported here because the command line starts without numpy."""


DIRECTION_LAYERS = ("all", "coarse", "middle", "fine")
"""The words of `edit.direction_layers`, those of `editing.directions`."""


@dataclass(frozen=True, slots=True)
class EditConfig:
    """The drag: `points` are [x, y, x2, y2] in photo pixels; `like` is another photo, whose head's pose is taken;
    `mask` is a PNG in photo pixels, white may change; `auto_mask` lets points given by hand change their surroundings
    only, where there is no mask. `direction` moves the latent along a direction of the generator instead, by `strength`
    standard deviations. `stop_after` ends it after so many steps in all, as if stopped by hand (0: never). `replay` is
    a run's edits.json, made before this edit, less its last `undo`. `gif`: edit.gif, too."""

    KEY: ClassVar[str] = "edit"
    points: list[list[float]] = knob([])
    preset: str | None = knob(None, choices=PRESETS)
    like: str | None = knob(None, path=True)
    direction: str | None = None
    direction_layers: str = "all"
    strength: float = knob(1.0, -3, 3)
    method: str = knob("auto", choices=("auto", "points", "landmarks", "published"))
    mask: str | None = knob(None, path=True)
    auto_mask: bool = True
    steps: int = knob(120, 1, 10000)
    stop_after: int = knob(0, 0, 1000000)
    lr: float = knob(0.04, above=0, high=1)
    tracker: str = knob("nearest", choices=("nearest", "line_search", "filter"))
    supervision: str = knob("auto", choices=("auto", "present", "original", "both", "gated"))
    pulls: int = knob(1, 1, 100)
    pace: str = knob("auto", choices=("auto", "even"))
    r1_px: float = knob(0.0, 0, 512)
    r2_px: float = knob(12.0, above=0, high=512)
    mask_weight: float = knob(1.0, 0)
    pull_weight: float = knob(1.0, 0)
    identity_weight: float = knob(0.0, 0)
    feature_resolution: int = knob(0, 0, 1024)
    w_layers: int = knob(0, 0, 64)
    stop_px: float = knob(0.0, 0, 256)
    frame_every: int = knob(2, 1, 10000)
    fps: int = knob(24, 1, 120)
    gif: bool = False
    replay: str | None = knob(None, path=True)
    undo: int = knob(0, 0, 1000)

    def __post_init__(self) -> None:
        check_fields(self, self.KEY)
        if not is_table(self.points, rows=len(self.points), columns=4):
            raise UsageError(
                f"edit.points is {self.points}: allowed is a list of drags, each x,y,x2,y2 in photo pixels, "
                "as in 'edit.points=[[310,220,330,215]]'"
            )
        if self.points and self.preset is not None:
            raise UsageError(
                f"edit.preset is {self.preset} and edit.points is {self.points}: give only one of them "
                "(edit.preset=null drops the preset)"
            )
        if self.like is not None and (self.points or self.preset is not None):
            other = f"edit.preset is {self.preset}" if self.preset is not None else f"edit.points is {self.points}"
            raise UsageError(
                f"edit.like is {self.like} and {other}: give only one of them (edit.like=null drops the other photo)"
            )
        self._check_direction()
        if self.method == "landmarks" and not self.by_face:
            raise UsageError(
                "edit.method is landmarks, and edit.preset is null: points given by hand are no landmarks; choose a "
                "preset, or edit.method=auto"
            )
        if self.feature_resolution and (self.feature_resolution < 4 or self.feature_resolution.bit_count() != 1):
            raise UsageError(
                f"edit.feature_resolution is {self.feature_resolution}: "
                "allowed are 0 (automatic) and the powers of two from 4 to 1024"
            )

    @property
    def asks(self) -> bool:
        """Whether there is anything to do beside a replay."""
        return bool(self.points) or self.by_face or self.direction is not None

    @property
    def by_face(self) -> bool:
        """Whether the drag comes from the face's landmarks: by a preset, or by the pose of another photo."""
        return self.preset is not None or self.like is not None

    def _check_direction(self) -> None:
        text, layers = self.direction, self.direction_layers
        if text is not None and not re.fullmatch(r"(sefa|pca):\d{1,6}", text, re.ASCII):
            raise UsageError(
                f"edit.direction is {text}: allowed are sefa:N and pca:N, N a number from 0, as in pca:0; photodrag "
                "directions draws them"
            )
        ends = re.fullmatch(r"(\d+)(?:-(\d+))?", layers, re.ASCII)
        if layers not in DIRECTION_LAYERS and (ends is None or int(ends[1]) > int(ends[2] or ends[1])):
            raise UsageError(
                f"edit.direction_layers is {layers}: allowed are {', '.join(DIRECTION_LAYERS)}, or a range of W+ "
                "layers such as 0-5"
            )
        if text is not None and (self.points or self.by_face):
            other = f"edit.points is {self.points}" if self.points else f"edit.preset is {self.preset}"
            other = other if self.like is None else f"edit.like is {self.like}"
            raise UsageError(
                f"edit.direction is {text} and {other}: give only one of them (edit.direction=null drops the direction)"
            )
        if text is not None and self.method != "auto":
            raise UsageError(
                f"edit.method is {self.method} and edit.direction is {text}, which drags nothing: give edit.method=auto"
            )


def is_table(values: Sequence[Sequence[float]], rows: int, columns: int) -> bool:
    """Whether a list holds so many rows of so many finite numbers."""
    finite = all(math.isfinite(number) for row in values for number in row)
    return finite and len(values) == rows and all(len(row) == columns for row in values)
