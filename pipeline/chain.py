"""The order of a run's stages, face by face, and what decides each stage's output."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch

from data.alignment import Crop
from data.errors import ModelError, PhotodragError
from data.photo import Photo
from editing.points import Drag, check_pairs
from inversion.identity import FaceNetwork
from inversion.pivotal import apply_delta
from pipeline import stages
from pipeline.artifacts import OutputError
from pipeline.engine import Engine, MissingStageError, Stored
from pipeline.faces import assign_pairs
from pipeline.frames import FRAMES
from pipeline.manifest import Manifest
from pipeline.models import LoadedGenerator, Models, PerceptualChoice
from pipeline.outputs import (
    ALIGN,
    BLEND,
    EDIT,
    INVERT,
    SAMPLE,
    Aligned,
    BlendFacts,
    Dragged,
    Fitted,
    Inverted,
    Sampled,
    tune_spec,
)
from pipeline.schema import CHAIN, RunConfig

T = TypeVar("T")

NOT_IN_KEYS = frozenset({"checkpoint_every"})
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
    """One face on its way through the stages; `asked` is None for a face that no drag concerns."""

    number: int
    crop: Crop
    sampled: Stored[Sampled] | None = None
    aligned: Stored[Aligned] | None = None
    asked: Drag | None = None
    pairs: list[int] = field(default_factory=list)
    inverted: Stored[Inverted] | None = None
    fitted: Stored[Fitted] | None = None
    dragged: Stored[Dragged] | None = None
    failure: str | None = None


class Chain:
    """Takes every face of a picture through the requested stages."""

    def __init__(self, setup: Setup, engine: Engine, manifest: Manifest) -> None:
        self.setup = setup
        self.config = setup.config
        self.engine = engine
        self.manifest = manifest
        self.last = self.config.stages[-1]

    def run(self) -> tuple[list[FaceWork], Stored[BlendFacts] | None]:
        """All faces with their outputs, and the blended photo when `blend` was requested.

        With several faces, one that fails does not stop the others; the error of a lone face is raised.
        """
        faces = self._faces()
        if "edit" in self.config.stages:
            self._ask(faces)
        for face in faces:
            self._guard(faces, face, self._work_on)
        return faces, self._blend(faces) if self.last == "blend" else None

    def _guard(self, faces: Sequence[FaceWork], face: FaceWork, work: Callable[[FaceWork], None]) -> None:
        if face.failure is not None:
            return
        try:
            work(face)
        except (OutputError, MissingStageError):
            raise
        except PhotodragError as error:
            face.failure = f"face {face.number + 1}: {error}"
            self.manifest.face(face.number)["failure"] = str(error)
            if all(other.failure is not None for other in faces):
                raise

    def _reaches(self, stage: str) -> bool:
        return CHAIN.index(self.last) >= CHAIN.index(stage)

    def _faces(self) -> list[FaceWork]:
        """The generated picture as one face, or the photo's crops."""
        if self.setup.sampled:
            return [self._sampled_face()]
        aligned = self._aligned()
        faces = [FaceWork(number, crop, aligned=aligned) for number, crop in enumerate(aligned.value.crops)]
        for face in faces:
            alignment = face.crop.alignment
            self.manifest.face(face.number).update(face_index=alignment.face_index, quad=alignment.quad.tolist())
        return faces

    def _sampled_face(self) -> FaceWork:
        setup, config = self.setup, self.config.sample
        sampled = self.engine.obtain(
            SAMPLE,
            {"generator": setup.generator.sha256, "config": _plain_config(config)},
            lambda _: stages.sample(setup.generator.module, config, setup.device),
            known_key=setup.known_key("sample"),
        )
        return FaceWork(0, stages.sampled_crop(sampled.value), sampled=sampled)

    def _aligned(self) -> Stored[Aligned]:
        setup, config, resolution = self.setup, self.config.align, self.setup.generator.module.resolution
        return self.engine.obtain(
            ALIGN,
            {"photo": setup.photo_sha256, "resolution": resolution, "config": _plain_config(config)},
            lambda _: stages.align(_needed(setup.photo), config, resolution),
            known_key=setup.known_key("align"),
        )

    def _ask(self, faces: Sequence[FaceWork]) -> None:
        """Decide what each face is asked to do, and refuse bad points before anything long begins."""
        config = self.config.edit
        pairs = assign_pairs(config.points, [face.crop.alignment for face in faces])

        def ask(face: FaceWork) -> None:
            face.pairs = pairs[face.number]
            if config.preset is None and not face.pairs:
                return
            face.asked = stages.make_drag(config, face.crop, face.pairs)
            alignment = face.crop.alignment
            check_pairs(alignment.to_crop(face.asked.handles), alignment.to_crop(face.asked.targets), alignment.size)

        for face in faces:
            self._guard(faces, face, ask)

    def _work_on(self, face: FaceWork) -> None:
        if face.sampled is None and self._reaches("invert"):
            self._invert(face)
            if self._reaches("tune"):
                self._tune(face)
        if self.last in ("edit", "blend"):
            self._edit(face)

    def _title(self, stage: str, face: FaceWork) -> str:
        count = len(self.manifest.data["faces"])
        return stage if count <= 1 else f"{stage} face {face.number + 1}/{count}"

    @cached_property
    def tools(self) -> stages.Tools:
        """The perceptual distance and the metrics' network, read when the first stage needs them."""
        choice = self.setup.perceptual
        assert choice is not None, "a stage that inverts or tunes runs with a perceptual distance"
        network = self._face_network()
        perceptual = self.setup.models.perceptual(choice, network, self.setup.device)
        return stages.Tools(perceptual, network, self.engine.console, self.config.seed, self.setup.device)

    def _face_network(self) -> FaceNetwork | None:
        """The network of the face distance; without its file that measure is left out."""
        try:
            return self.setup.models.face_network(self.setup.device)
        except ModelError as error:
            self.engine.console.warn(f"the face distance is not measured: {error}")
            return None

    def _perceptual_name(self, weight: float) -> str | None:
        return self.setup.perceptual.name if weight and self.setup.perceptual else None

    def _invert(self, face: FaceWork) -> None:
        config, generator = self.config.invert, self.setup.generator
        inputs = {
            "align": _needed(face.aligned).key,
            "face": face.number,
            "generator": generator.sha256,
            "perceptual": self._perceptual_name(config.weights.perceptual),
            "seed": self.config.seed,
            "config": _plain_config(config, {"frame_every"}),
        }
        title = self._title("invert", face)
        face.inverted = self.engine.obtain(
            INVERT,
            inputs,
            lambda attempt: stages.invert(generator, face.crop, self.tools, config, attempt, title),
            face=face.number,
            known_key=self.setup.known_key("invert", face.number),
        )
        if config.frame_every and not (face.inverted.folder / FRAMES).is_file():
            self.engine.console.warn(
                f"invert.frame_every is {config.frame_every}, but the inversion was computed before without frames: "
                "resume=false computes it again with them"
            )

    def _tune(self, face: FaceWork) -> None:
        config, generator = self.config.tune, self.setup.generator
        inverted = _needed(face.inverted)
        inputs = {
            "invert": inverted.key,
            "perceptual": self._perceptual_name(config.weights.perceptual),
            "seed": self.config.seed,
            "config": _plain_config(config),
        }
        title = self._title("tune", face)
        face.fitted = self.engine.obtain(
            tune_spec(inverted.value.inversion),
            inputs,
            lambda attempt: stages.tune_around(
                generator.module,
                generator.sha256,
                face.crop,
                inverted.value,
                self.tools,
                config,
                self.config.invert.frame_every,
                attempt,
                title,
            ),
            face=face.number,
            known_key=self.setup.known_key("tune", face.number),
        )

    def _edit(self, face: FaceWork) -> None:
        requested, known = "edit" in self.config.stages, self.setup.known_key("edit", face.number)
        if (requested and face.asked is None) or (not requested and known is None):
            return
        face.dragged = self.engine.obtain(
            EDIT,
            self._edit_inputs(face),
            lambda _: self._drag(face),
            face=face.number,
            known_key=known,
        )

    def _edit_inputs(self, face: FaceWork) -> dict[str, Any]:
        config = self.config.edit
        source_key = _needed(face.fitted).key if face.sampled is None else face.sampled.key
        settings = _plain_config(config, {"points", "mask", "strength"})
        return {
            "source": source_key,
            "pairs": [config.points[number] for number in face.pairs],
            "strength": None if config.preset is None else config.strength,
            "mask": stages.mask_hash(config.mask),
            "config": settings,
        }

    def _drag(self, face: FaceWork) -> Dragged:
        device, config, base = self.setup.device, self.config.edit, self.setup.generator.module
        title, console, asked = self._title("edit", face), self.engine.console, _needed(face.asked)
        if face.sampled is not None:
            start = face.sampled.value
            return stages.edit(base, start.w.to(device), None, start.image, face.crop, asked, config, console, title)
        tuned = _needed(face.fitted).value.tuned
        generator = apply_delta(base, tuned.delta)
        inversion = stages.inversion_on(tuned.inversion, device)
        return stages.edit(
            generator, inversion.w, inversion.noise, tuned.image, face.crop, asked, config, console, title
        )

    def _blend(self, faces: Sequence[FaceWork]) -> Stored[BlendFacts]:
        config = self.config.blend
        edited = [(face.crop, face.dragged) for face in faces if face.dragged is not None]
        if not edited:
            raise MissingStageError("edit")
        inputs = {
            "photo": self.setup.photo_sha256,
            "edits": [dragged.key for _, dragged in edited],
            "mask": stages.mask_hash(config.mask),
            "config": _plain_config(config, {"mask"}),
        }
        changes = [(crop, dragged.value) for crop, dragged in edited]
        return self.engine.obtain(BLEND, inputs, lambda _: stages.blend(_needed(self.setup.photo), changes, config))


def _plain_config(config: Any, without: frozenset[str] | set[str] = frozenset()) -> dict[str, Any]:
    """A config group as JSON, less what the key has in another form or must not depend on."""
    values = dataclasses.asdict(config)
    return {name: value for name, value in values.items() if name not in NOT_IN_KEYS | without}


def _needed(value: T | None) -> T:
    assert value is not None, "an earlier stage did not run"
    return value
