"""Pictures of an optimisation on its way, kept beside its checkpoints and turned into the projection video."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from inversion.generators.protocol import Generator
from inversion.generators.weights import expand, shapes_of
from inversion.optimisation import StepInfo
from inversion.pivotal import apply_delta
from inversion.projector import Inversion
from pipeline.artifacts import read_tensors
from pipeline.pictures import enlarged, image_u8, png_bytes, preview, read_picture, side_by_side

FRAMES = "frames.safetensors"
STATE_KEY = "frames"
MAX_FRAME_SIDE_PX = 512
FPS = 12
HOLD_FRAMES = FPS
"""How long the video rests on a stage's result: one second."""
_CAPTION_PX = 28
_VARIABLE = "variable/"

Draw = Callable[[Mapping[str, Any]], Tensor]
"""From an optimisation's checkpoint state to its present picture [1, 3, R, R] in [-1, 1]."""


class FrameKeeper:
    """Draws the state of an optimisation after its first and after every `every`-th step, and keeps the pictures.

    It reads states and draws no random number, so the optimisation's result is the same with and without it. `state()`
    travels with the checkpoints; a keeper that is made from one has the frames before the interruption.
    """

    def __init__(self, every: int, draw: Draw, resume: Mapping[str, Any] | None = None) -> None:
        earlier = (resume or {}).get(STATE_KEY, {})
        self.every = every
        self._draw = draw
        self._steps: list[int] = [int(step) for step in earlier.get("steps", [])]
        self._pictures: list[Tensor] = list(earlier.get("pictures", []))
        self._latents: list[Tensor] = list(earlier.get("latents", []))

    def keep(self, info: StepInfo) -> None:
        """Draw and keep the state of this step when it is due; the frames of steps that were taken back are dropped."""
        while self._steps and self._steps[-1] >= info.step:
            for kept in (self._steps, self._pictures, self._latents):
                del kept[-1:]
        if info.step != 1 and info.step % self.every:
            return
        state = info.state()
        with torch.no_grad():
            picture = preview(image_u8(self._draw(state)), MAX_FRAME_SIDE_PX)
        self._steps.append(info.step)
        self._pictures.append(torch.from_numpy(np.frombuffer(png_bytes(picture), np.uint8).copy()))
        if (w := state.get(f"{_VARIABLE}w")) is not None:
            self._latents.append(w[0].detach().cpu())

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold for `resume`."""
        return {STATE_KEY: {"steps": self._steps, "pictures": self._pictures, "latents": self._latents}}

    def tensors(self) -> dict[str, Tensor]:
        """For the stage's folder: `step` [T], `picture/<n>` the bytes of a PNG, and of an inversion `w` [T, L, D]."""
        found = {f"picture/{number}": picture for number, picture in enumerate(self._pictures)}
        if self._latents:
            found["w"] = torch.stack(self._latents)
        return {"step": torch.tensor(self._steps, dtype=torch.int64), **found}


class GroupFrames:
    """A `FrameKeeper` for each picture of a group that is optimised together.

    draws: one for each picture. split: whether the optimisation has variables of their own for each picture, along
    their first dimension, of which a picture is then drawn with its own alone.
    """

    def __init__(self, every: int, draws: Sequence[Draw], resume: Mapping[str, Any] | None, split: bool) -> None:
        earlier = (resume or {}).get(STATE_KEY, {})
        self._keepers = [
            FrameKeeper(every, draw, {STATE_KEY: earlier.get(str(number), {})}) for number, draw in enumerate(draws)
        ]
        self._split = split

    def keep(self, info: StepInfo) -> None:
        """Draw and keep the state of this step for each picture when it is due."""
        for number, keeper in enumerate(self._keepers):
            keeper.keep(replace(info, state=partial(self._state, info, number)))

    def _state(self, info: StepInfo, number: int) -> dict[str, Any]:
        state = info.state()
        own = {name: value[number : number + 1] for name, value in state.items() if name.startswith(_VARIABLE)}
        return {**state, **own} if self._split else state

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold for `resume`."""
        return {STATE_KEY: {str(number): keeper.state()[STATE_KEY] for number, keeper in enumerate(self._keepers)}}

    def tensors(self) -> list[dict[str, Tensor]]:
        """For each picture what `FrameKeeper.tensors` gives."""
        return [keeper.tensors() for keeper in self._keepers]


def without_frames(state: dict[str, Any] | None) -> dict[str, Any] | None:
    """A checkpoint's state as the optimisation itself wrote it."""
    return None if state is None else {name: value for name, value in state.items() if name != STATE_KEY}


def draw_latent(generator: Generator) -> Draw:
    """Draws the states of an inversion: their latent and their noise maps."""

    def draw(state: Mapping[str, Any]) -> Tensor:
        noise = {name: state.get(f"{_VARIABLE}noise/{name}", value) for name, value in generator.noise_maps().items()}
        w = state[f"{_VARIABLE}w"][:1].expand(1, generator.num_ws, -1)
        return generator.synthesize(w, "const", noise)

    return draw


def draw_weights(generator: Generator, inversion: Inversion) -> Draw:
    """Draws the states of a tuning: the pivot by the weights of that step."""
    shapes = shapes_of(generator)

    def draw(state: Mapping[str, Any]) -> Tensor:
        factors = {name.removeprefix(_VARIABLE): value for name, value in state.items() if name.startswith(_VARIABLE)}
        return apply_delta(generator, expand(factors, shapes)).synthesize(inversion.w, "const", inversion.noise)

    return draw


@dataclass(frozen=True, eq=False, slots=True)
class StagePath:
    """The frames of one stage in its video: `title` (Inversion, Tuning), steps [T], pictures of [R, R, 3] uint8 RGB.

    result: the picture that the stage chose in the end.
    """

    title: str
    steps: list[int]
    pictures: list[np.ndarray]
    result: np.ndarray


def read_path(folder: Path, title: str, result: np.ndarray) -> StagePath | None:
    """The frames in a finished stage's folder, None where none were kept; DamagedFilesError when unreadable."""
    path = folder / FRAMES
    if not path.is_file():
        return None
    tensors = read_tensors(path)
    steps = [int(step) for step in tensors["step"]]
    pictures = [read_picture(tensors[f"picture/{n}"].numpy().tobytes())[0] for n in range(len(steps))]
    return StagePath(title, steps, pictures, result)


def projection_frames(target: np.ndarray, paths: Sequence[StagePath]) -> list[np.ndarray]:
    """The video's frames: the target [R, R, 3] uint8 beside each picture on the way to it, with a caption above."""
    shown = enlarged(preview(target, MAX_FRAME_SIDE_PX))
    frames = []
    for path in paths:
        captions = [f"{path.title}, step {step}" for step in path.steps]
        for picture, caption in zip(path.pictures, captions, strict=True):
            frames.append(_frame(shown, picture, caption))
        result = preview(path.result, MAX_FRAME_SIDE_PX)
        frames += [_frame(shown, result, f"{path.title}, best state")] * HOLD_FRAMES
    return frames


def _frame(target: np.ndarray, picture: np.ndarray, caption: str) -> np.ndarray:
    pair = side_by_side(target, enlarged(picture))
    strip = np.full((_CAPTION_PX, pair.shape[1], 3), 255, np.uint8)
    for text, left in (("Photo", 6), (caption, pair.shape[1] - target.shape[1] + 6)):
        cv2.putText(strip, text, (left, _CAPTION_PX - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip, pair])
