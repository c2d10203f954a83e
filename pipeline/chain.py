"""The order of a run's stages, face by face, and what decides each stage's output."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

from data.errors import OutputError, PhotodragError
from pipeline import stages
from pipeline.blending import blend
from pipeline.edit_stage import Drawn, EditStage, drawn
from pipeline.editability import editability_figures, try_presets
from pipeline.edits import read_edits, told_of
from pipeline.engine import Attempt, Engine, MissingStageError, Stored
from pipeline.faces import assign_pairs
from pipeline.fitting import align_photo, invert_face, read_tools, sampled_face, tune_face, warn_of_frames
from pipeline.manifest import Manifest
from pipeline.measuring import likeness_figures, lpips_trunks, read_instruments, shared_with, subject_of
from pipeline.outputs import BLEND, EDIT, MEASURE, BlendFacts, Measured
from pipeline.schema import CHAIN
from pipeline.together import Company, Member, batches, invert_side_by_side, tune_shared
from pipeline.work import FaceWork, Setup, computed_stages, needed, plain_config


class Chain:
    """Takes every face of a picture through the requested stages."""

    def __init__(self, setup: Setup, engine: Engine, manifest: Manifest, company: Company) -> None:
        self.setup = setup
        self.config = setup.config
        self.engine = engine
        self.manifest = manifest
        self.company = company
        self.last = self.config.stages[-1]

    def run(self) -> tuple[list[FaceWork], Stored[BlendFacts] | None]:
        """All faces with their outputs, and the blended photo when `blend` was requested.

        With several faces, one that fails does not stop the others; the error of a lone face is raised.
        """
        faces = self._faces()
        if "edit" in self.config.stages:
            self._ask(faces)
        self._fit_together(faces)
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
            return [sampled_face(self.setup, self.engine)]
        aligned = align_photo(self.setup, self.engine)
        faces = [FaceWork(number, crop, aligned=aligned) for number, crop in enumerate(aligned.value.crops)]
        for face in faces:
            alignment = face.crop.alignment
            self.manifest.face(face.number).update(face_index=alignment.face_index, quad=alignment.quad.tolist())
        return faces

    def _ask(self, faces: Sequence[FaceWork]) -> None:
        """Decide what each face is asked to do, and refuse bad points before anything long begins."""
        config = self.config.edit
        pairs = assign_pairs(config.points, [face.crop.alignment for face in faces])
        earlier = read_edits(config)

        def ask(face: FaceWork) -> None:
            face.pairs = pairs[face.number]
            alignment = face.crop.alignment
            row = self._row(face)
            face.steps = [row.again(told) for told in earlier]
            if config.by_face or config.direction is not None or face.pairs:
                face.steps.append(row.step(config, face.pairs, told_of(config, face.pairs, alignment)))

        for face in faces:
            self._guard(faces, face, ask)

    def _fit_together(self, faces: Sequence[FaceWork]) -> None:
        """Compute what several faces share, before each of them passes through the stages by itself."""
        config, console = self.config, self.engine.console
        members = [Member(self.setup, self.engine, face) for face in faces if face.failure is None]
        if "invert" in config.stages and config.invert.batch > 1:
            for batch in batches(members, config.invert.batch):
                invert_side_by_side(batch, lambda: self.tools, console)
        if "tune" in config.stages and config.tune.shared and not self.company.several:
            for face in faces:
                self._guard(faces, face, self._invert)
            inverted = [member for member in members if member.face.inverted is not None]
            self.company.keys = tune_shared(inverted, lambda: self.tools, console)

    def _work_on(self, face: FaceWork) -> None:
        if face.sampled is None and self._reaches("invert"):
            self._invert(face)
            if self._reaches("tune"):
                self._tune(face)
            self._measure(face)
        if self.last in ("edit", "blend"):
            self._edit(face)

    def _title(self, stage: str, face: FaceWork) -> str:
        count = len(self.manifest.data["faces"])
        return stage if count <= 1 else f"{stage} face {face.number + 1}/{count}"

    @cached_property
    def tools(self) -> stages.Tools:
        """The perceptual distance and the metrics' network, read when the first stage needs them."""
        return read_tools(self.setup, self.engine.console)

    def _invert(self, face: FaceWork) -> None:
        """The face's inversion, unless it is there already."""
        if face.inverted is None:
            face.inverted = invert_face(self.setup, self.engine, face, lambda: self.tools, self._title("invert", face))
            warn_of_frames(self.setup, self.engine, face)

    def _tune(self, face: FaceWork) -> None:
        known, title = self.setup.known_key("tune", face.number), self._title("tune", face)
        together = () if known else self.company.keys
        face.fitted = tune_face(self.setup, self.engine, face, lambda: self.tools, title, together)

    def _measure(self, face: FaceWork) -> None:
        """Figures of what invert and tune made; of a run that only continues behind them, those that it has."""
        config, setup = self.config.measure, self.setup
        anew = MEASURE.name in computed_stages(self.config)
        known = None if anew else setup.known_key(MEASURE.name, face.number)
        if not (config.metrics or config.editability) if anew else known is None:
            return
        trunks = lpips_trunks(self.config.perceptual) if config.metrics else {}
        losses = self._losses()
        inputs = {
            "invert": needed(face.inverted).key,
            "tune": None if face.fitted is None else face.fitted.key,
            "lpips": {name: path.stat().st_size for name, path in trunks.items()},
            "losses": losses,
            "edit": EDIT.version if config.editability else None,
            "config": plain_config(config),
        }

        def compute(_: Attempt) -> Measured:
            figures = self._likeness(face, trunks) if config.metrics else {}
            return Measured(figures | self._editability(face), shared_with(losses))

        with contextlib.suppress(MissingStageError):  # a run of another version has no figures to show
            face.measured = self.engine.obtain(MEASURE, inputs, compute, face=face.number, known_key=known)

    def _losses(self) -> list[str]:
        """The perceptual distances that this run, or the one that it continues, optimises through."""
        weights = (self.config.invert.weights.perceptual, self.config.tune.weights.perceptual)
        names = {self.setup.perceptual_name(weight) for weight in weights}
        if self.config.invert.weights.identity or self.config.tune.weights.identity:
            names.add("face")
        if self.setup.earlier is not None and self.setup.earlier["perceptual"]:
            names.add(str(self.setup.earlier["perceptual"]["name"]))
        return sorted(name for name in names if name is not None)

    def _likeness(self, face: FaceWork, trunks: Mapping[str, Path]) -> dict[str, float | None]:
        tools, inverted = self.tools, needed(face.inverted).value
        instruments = read_instruments(tools.face_network, trunks, tools.device, tools.console)
        subject = subject_of(face.crop, inverted.target.to(tools.device), self.setup.generator.module)
        pictures = {"invert": inverted.inversion.image}
        if face.fitted is not None:
            pictures["tuned"] = face.fitted.value.tuned.image
        rows = [likeness_figures(stage, image, subject, instruments) for stage, image in pictures.items()]
        return {name: value for row in rows for name, value in row.items()}

    def _editability(self, face: FaceWork) -> dict[str, float | None]:
        presets = self.config.measure.editability
        if not presets:
            return {}
        outcomes = try_presets(*self._drawn(face), face.crop, presets, self.engine.console, self.setup.config.speed)
        if not outcomes:
            self.engine.console.warn("the editability is not measured: no face is found in the reconstruction")
        return editability_figures("invert" if face.fitted is None else "tuned", outcomes)

    def _drawn(self, face: FaceWork) -> Drawn:
        """What draws the face as it is before a drag."""
        return drawn(self.setup, face)

    def _row(self, face: FaceWork) -> EditStage:
        return EditStage(self.setup, self.engine, face, partial(drawn, self.setup, face))

    def _edit(self, face: FaceWork) -> None:
        requested, known = "edit" in self.config.stages, self.setup.known_key("edit", face.number)
        if (requested and not face.steps) or (not requested and known is None):
            return
        face.dragged = self._row(face).obtain(face.steps, self._title("edit", face), known)

    def _blend(self, faces: Sequence[FaceWork]) -> Stored[BlendFacts]:
        config = self.config.blend
        edited = [(face, face.dragged) for face in faces if face.dragged is not None]
        if not edited:
            raise MissingStageError("edit")
        without = {"mask", "c2pa_certificates", "c2pa_key"} | ({"stitch"} if config.stitch == 0 else set())
        inputs = {
            "photo": self.setup.photo_sha256,
            "edits": [dragged.key for _, dragged in edited],
            "mask": stages.mask_hash(config.mask),
            "config": plain_config(config, without),
            "signed": [stages.mask_hash(path) for path in (config.c2pa_certificates, config.c2pa_key)],
        }
        changes, console = [(face.crop, dragged.value) for face, dragged in edited], self.engine.console
        artists = [partial(self._drawn, face) for face, _ in edited]
        return self.engine.obtain(
            BLEND, inputs, lambda _: blend(needed(self.setup.photo), changes, config, artists, console)
        )
