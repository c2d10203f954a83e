"""Faces that are fitted together: inversions side by side, and one change of the weights for several faces."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from data.errors import MemoryShortError, OutputError, PhotodragError
from inversion.generators.protocol import Generator
from inversion.losses import Counting
from inversion.optimisation import StepInfo
from inversion.pivotal import apply_delta, tune_together
from inversion.projector import Inversion, project_batch
from pipeline import stages
from pipeline.artifacts import Checkpoints, stage_key
from pipeline.between import BETWEEN_FPS, between_frames
from pipeline.counting import counting_of, drawn_part
from pipeline.engine import Attempt, Engine, Fresh, key_of, load_checkpoint
from pipeline.fitting import ReadTools, invert_inputs, tune_inputs
from pipeline.frames import GroupFrames, draw_latent, draw_weights
from pipeline.optimiser_settings import projector_settings, tune_settings
from pipeline.outputs import INVERT, Fitted, Inverted, tune_spec
from pipeline.progress import Console, checkpointed_steps
from pipeline.shortage import naming_shortage
from pipeline.video import VideoError, video_bytes
from pipeline.work import FaceWork, Setup, needed


@dataclass(eq=False, slots=True)
class Company:
    """What the faces of one call have in common.

    keys: of the inversions that share a tuning, in their order; fresh: as in the engine; several: whether the faces
    are of several photos, so that a single run must not choose the keys itself.
    """

    keys: tuple[str, ...] = ()
    fresh: Fresh = field(default_factory=dict)
    several: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Member:
    """An aligned face and the run that it belongs to."""

    setup: Setup
    engine: Engine
    face: FaceWork

    @property
    def invert_key(self) -> str:
        """Key of the face's inversion, stored or not."""
        return key_of(INVERT, invert_inputs(self.setup, self.face))

    @property
    def inverted(self) -> bool:
        """Whether the inversion is stored and may be used."""
        return self.engine.find(INVERT, self.invert_key) is not None


def invert_side_by_side(members: Sequence[Member], tools: ReadTools, console: Console) -> None:
    """Compute and store those inversions of a batch that are missing, unless it is only one.

    A face that cannot be inverted is left out, and a batch that fails is left alone: each face's own run then says what
    is wrong. What is missing of a batch that was stopped while it was stored is computed by the whole batch again, to
    the same bits.
    """
    if len(members) < 2 or all(member.inverted for member in members):
        return
    resume = members[0].engine.resume
    again = resume and _batch_checkpoints(members).exists()
    wanted = [member for member in members if again or not member.inverted]
    try:
        ready = _counted(wanted, tools()) if len(wanted) > 1 else []
        if len(ready) > 1:
            with naming_shortage(INVERT.name):
                _invert_batch(ready, tools(), console)
    except (OutputError, MemoryShortError):
        raise
    except PhotodragError as error:
        console.warn(f"{len(wanted)} faces could not be inverted side by side and are inverted one by one: {error}")


def _batch_checkpoints(members: Sequence[Member]) -> Checkpoints:
    """Where a batch's state is kept: in the store of its first member."""
    key = stage_key({"side_by_side": [member.invert_key for member in members]})
    return members[0].engine.store.checkpoints(INVERT.name, key)


def _counted(members: Sequence[Member], tools: stages.Tools) -> list[tuple[Member, Counting]]:
    """Where each member's crop counts; those for which that cannot be said are left out."""
    found = []
    for member in members:
        generator, config = member.setup.generator, member.setup.config.invert
        with contextlib.suppress(PhotodragError):
            counting = counting_of(
                config,
                member.face.crop,
                generator.module,
                generator.stats,
                tools.perceptual,
                tools.seed,
                tools.device,
            )
            found.append((member, counting))
    return found


def _invert_batch(ready: Sequence[tuple[Member, Counting]], tools: stages.Tools, console: Console) -> None:
    started = time.monotonic()
    members, first = [member for member, _ in ready], ready[0][0]
    attempt = _attempt(_batch_checkpoints(members), first.engine, "invert")
    found = _inverted_batch(ready, tools, attempt)
    seconds = time.monotonic() - started
    keys = [member.invert_key for member in members]
    for member, key, inverted in zip(members, keys, found, strict=True):
        if not member.inverted:
            inputs = {**invert_inputs(member.setup, member.face), "side_by_side": keys}
            resumed = attempt.resume is not None
            member.engine.put(INVERT, key, inputs, inverted, seconds / len(members), resumed)
    attempt.checkpoints.clear()
    console.say(f"invert: {len(members)} faces side by side, {seconds:.1f} s")


def _attempt(checkpoints: Checkpoints, engine: Engine, name: str) -> Attempt:
    if not engine.resume:
        checkpoints.clear()
    return Attempt(load_checkpoint(checkpoints, engine.console, name), checkpoints)


def _inverted_batch(ready: Sequence[tuple[Member, Counting]], tools: stages.Tools, attempt: Attempt) -> list[Inverted]:
    setup, crops = ready[0][0].setup, [member.face.crop for member, _ in ready]
    generator, config, countings = setup.generator, setup.config.invert, [counting for _, counting in ready]
    targets = stages.targets_of(crops, stacked(countings), tools)
    draws = [draw_latent(generator.module)] * len(crops)
    frames = GroupFrames(config.frame_every, draws, attempt.resume, split=True) if config.frame_every else None
    title = f"invert {len(crops)} faces"
    with _group_steps(tools.console, title, attempt.checkpoints, config.checkpoint_every, frames) as on_step:
        rng, resume = torch.Generator().manual_seed(tools.seed), stages.on_device(attempt.resume, tools.device)
        settings = projector_settings(config, tools.speed)
        inversions = project_batch(generator.module, targets, settings, rng, resume, on_step, generator.stats)
    kept = [None] * len(crops) if frames is None else frames.tensors()
    return [
        stages.inverted(inversion, targets.of(i).pictures, countings[i], config, tools, kept[i])
        for i, inversion in enumerate(inversions)
    ]


def stacked(countings: Sequence[Counting]) -> Counting:
    """Where each picture [1, 3, R, R] of a batch counts, as one [N, 1, R, R]; without any focus there is none."""
    masks = [needed(counting.mask) for counting in countings]
    focuses = [counting.focus for counting in countings]
    if all(focus is None for focus in focuses):
        return Counting(torch.cat(masks))
    whole = [torch.ones_like(mask) if focus is None else focus for focus, mask in zip(focuses, masks, strict=True)]
    return Counting(torch.cat(masks), torch.cat(whole))


@contextlib.contextmanager
def _group_steps(
    console: Console, title: str, checkpoints: Checkpoints, every_steps: int, frames: GroupFrames | None
) -> Iterator[Callable[[StepInfo], None]]:
    """As `checkpointed_steps`, with a checkpoint after the first step too: it says that the group has been begun."""
    with checkpointed_steps(console, title, checkpoints, every_steps, frames) as on_step:

        def both(info: StepInfo) -> None:
            on_step(info)
            if info.step == 1 < every_steps:
                checkpoints.save(info.state() if frames is None else {**info.state(), **frames.state()})

        yield both


def tune_shared(members: Sequence[Member], tools: ReadTools, console: Console) -> tuple[str, ...]:
    """Compute and store the tuning that inverted faces share; returns the keys of their inversions.

    A single face has nothing to share: that is said, and it is left to be tuned by itself.
    """
    if len(members) < 2:
        if members:
            console.warn("tune.shared is true, but there is only one face: it is tuned by itself")
        return ()
    keys = tuple(needed(member.face.inverted).key for member in members)
    inputs = [tune_inputs(member.setup, member.face, keys) for member in members]
    specs = [tune_spec(_inversion(member), member.setup.generator.module) for member in members]
    own = [key_of(spec, decides) for spec, decides in zip(specs, inputs, strict=True)]
    if all(m.engine.find(spec, key) is not None for m, spec, key in zip(members, specs, own, strict=True)):
        return keys
    started, engine = time.monotonic(), members[0].engine
    attempt = _attempt(engine.store.checkpoints("tune", own[0]), engine, "tune")
    with naming_shortage("tune"):
        found = _tuned_group(members, tools(), attempt)
    seconds = time.monotonic() - started
    for member, spec, key, decides, fitted in zip(members, specs, own, inputs, found, strict=True):
        member.engine.put(spec, key, decides, fitted, seconds / len(members), attempt.resume is not None)
    attempt.checkpoints.clear()
    ending = f"{found[0].tuned.stop_reason} after {found[0].tuned.steps} steps"
    console.say(f"tune: one generator for {len(members)} faces, {seconds:.1f} s, {ending}")
    return keys


def _inversion(member: Member) -> Inversion:
    return needed(member.face.inverted).value.inversion


def _tuned_group(members: Sequence[Member], tools: stages.Tools, attempt: Attempt) -> list[Fitted]:
    setup, crops = members[0].setup, [member.face.crop for member in members]
    generator, config = setup.generator, setup.config.tune
    inversions = [stages.inversion_on(_inversion(member), tools.device) for member in members]
    countings = [_tune_counting(member, generator.module, tools.device) for member in members]
    targets = stages.targets_of(crops, stacked(countings), tools)
    every, draws = setup.config.invert.frame_every, [draw_weights(generator.module, found) for found in inversions]
    frames = GroupFrames(every, draws, attempt.resume, split=False) if every else None
    title = f"tune for {len(crops)} faces"
    with _group_steps(tools.console, title, attempt.checkpoints, config.checkpoint_every, frames) as on_step:
        rng, resume = torch.Generator().manual_seed(tools.seed), stages.on_device(attempt.resume, tools.device)
        settings, base = tune_settings(config, tools.speed), generator.sha256
        tuned = tune_together(generator.module, targets, inversions, settings, rng, resume, on_step, base)
    between = _between(apply_delta(generator.module, tuned[0].delta), inversions, tools.console)
    kept: Sequence[dict[str, Tensor] | None] = [None] * len(crops) if frames is None else frames.tensors()
    return [
        stages.fitted(one, targets.of(i).pictures, countings[i].mask, tools, kept[i], between)
        for i, one in enumerate(tuned)
    ]


def _tune_counting(member: Member, generator: Generator, device: torch.device) -> Counting:
    counting = stages.counting_on(needed(member.face.inverted).value.counting, device)
    if counting.mask is not None:
        return counting
    return Counting(drawn_part(member.face.crop, generator).to(device), counting.focus)


def _between(tuned: Generator, inversions: Sequence[Inversion], console: Console) -> bytes | None:
    """The video of the way between the pivots; None, said aloud, where no video can be written."""
    try:
        return video_bytes(between_frames(tuned, inversions), BETWEEN_FPS)
    except VideoError as error:
        console.warn(f"the video between the faces is left out: {error}")
        return None


def batches(items: Iterator[Any] | Sequence[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` in order; the last may be shorter."""
    found: list[Any] = []
    for item in items:
        found.append(item)
        if len(found) == size:
            yield found
            found = []
    if found:
        yield found
