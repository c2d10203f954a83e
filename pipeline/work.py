"""What a run starts from, and a face on its way through the stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch

from data.alignment import Crop
from data.photo import Photo
from inversion.speed import Speed, runs_fast
from pipeline.edits import EditStep
from pipeline.engine import Stored
from pipeline.models import LoadedGenerator, Models, PerceptualChoice
from pipeline.outputs import MEASURE, Aligned, Dragged, Fitted, Inverted, Measured, Sampled
from pipeline.schema import RunConfig

T = TypeVar("T")

NOT_IN_KEYS = frozenset({"checkpoint_every", "gif"})
"""Settings that cannot change what a stage computes."""


@dataclass(frozen=True, eq=False, slots=True)
class Setup:
    """What a run starts from.

    perceptual is None when no stage compares pictures. photo is read when a stage needs it; photo_sha256 is "" for a
    generated picture. earlier is the manifest of the run that is continued. models reads the other networks.
    """

    config: RunConfig
    device: torch.device
    generator: LoadedGenerator
    perceptual: PerceptualChoice | None
    photo: Photo | None
    photo_sha256: str
    earlier: Mapping[str, Any] | None
    models: Models

    @property
    def sampled(self) -> bool:
        """Whether the picture is a generated one."""
        return "sample" in self.config.stages or (self.earlier is not None and "sample" in self.earlier["keys"])

    @property
    def fast(self) -> bool:
        """Whether pictures are drawn in bfloat16, which is part of what decides a result."""
        return runs_fast(self.device, cast(Speed, self.config.speed))

    @property
    def rounding_of_drags(self) -> dict[str, bool]:
        """What decides a drag's result where its feature maps are not exact: bfloat16, or TF32 on a CUDA device."""
        if self.config.speed == "fast":
            return {"fast": True}
        return {"tf32": True} if self.device.type == "cuda" and self.config.speed == "auto" else {}

    def perceptual_name(self, weight: float) -> str | None:
        """The perceptual distance of a term with that weight, None for a term that is switched off."""
        return self.perceptual.name if weight and self.perceptual else None

    def known_key(self, stage: str, face: int | None = None) -> str | None:
        """Key under which the continued run has a stage that this run does not compute."""
        if self.earlier is None or stage in self.config.stages:
            return None
        if face is None:
            return self.earlier["keys"].get(stage)
        faces = self.earlier["faces"]
        return faces[face]["keys"].get(stage) if face < len(faces) else None


@dataclass(eq=False, slots=True)
class FaceWork:
    """One face on its way through the stages; `steps` are its edits in a row, none for a face that no edit concerns."""

    number: int
    crop: Crop
    sampled: Stored[Sampled] | None = None
    aligned: Stored[Aligned] | None = None
    steps: list[EditStep] = field(default_factory=list)
    pairs: list[int] = field(default_factory=list)
    inverted: Stored[Inverted] | None = None
    fitted: Stored[Fitted] | None = None
    measured: Stored[Measured] | None = None
    dragged: Stored[Dragged] | None = None
    failure: str | None = None


def computed_stages(config: RunConfig) -> list[str]:
    """The stages that a run may compute: those that it asks for, and `measure` behind invert and tune."""
    return [*config.stages, *([MEASURE.name] if {"invert", "tune"} & set(config.stages) else [])]


def plain_config(config: Any, without: frozenset[str] | set[str] = frozenset()) -> dict[str, Any]:
    """A config group as JSON, less what the key has in another form or must not depend on."""
    values = dataclasses.asdict(config)
    return {name: value for name, value in values.items() if name not in NOT_IN_KEYS | without}


def needed(value: T | None) -> T:
    assert value is not None, "an earlier stage did not run"
    return value
