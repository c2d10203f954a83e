"""Interactive dragging: the one stateful facade over the pure steps of `editing.drag`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.errors import UsageError
from editing.axes import latent_axes
from editing.directions import moved, parse_direction, parse_layers, pick_direction
from editing.drag import DragSettings, DragState, DragStep, DragTask, StopReason, advance, begin, report, verdict
from editing.drag_task import check_start, latent, prepare
from editing.points import Points, PointsLike, check_pairs
from editing.session_file import Record, read_record, write_record
from editing.step_maps import Maps
from inversion.generators.frozen import states_of
from inversion.generators.protocol import Generator, NoiseMaps

NO_POINTS: Points = np.zeros((0, 2))


@dataclass(frozen=True, slots=True)
class Along:
    """A direction of the generator (`pca:0`, `sefa:3`), the amount in standard deviations, and the layers moved."""

    direction: str
    amount: float
    layers: str = "all"


@dataclass(frozen=True, eq=False, slots=True)
class Edit:
    """One edit of a session: handles and targets [N, 2] in crop pixels, its mask, the latent `w` [1, L, D] it led to,
    and how it ended (None while it runs); or `along`, the direction that was moved along, and no points."""

    handles: Points
    targets: Points
    mask: Tensor | None
    w: Tensor
    steps: int
    stop_reason: StopReason | None
    along: Along | None = None


class DragSession:
    """Drags, and moves along directions, one after another on one latent, with undo and redo of whole edits.

    Example: `session.start(handles, targets)`, then `session.step()` until `session.stop_reason` is set, or
    `session.run()`; `session.w` and `session.render()` are the present latent [1, L, D] and picture [1, 3, R, R].
    Points are (x, y) in crop pixels. Nothing goes on by itself, so a session may be left between any two steps.
    """

    def __init__(
        self, generator: Generator, w: Tensor, noise: NoiseMaps | None = None, settings: DragSettings | None = None
    ) -> None:
        """w [1, L, D] is copied; UsageError when it does not fit the generator."""
        check_start(generator, w)
        self._generator, self._noise = generator, noise
        self._settings = settings or DragSettings()
        self._axes = latent_axes(generator, w)
        self._maps: tuple[object, Maps] | None = None  # and the weights that they were recorded with
        self._start = w.detach().clone()
        self._edits: list[Edit] = []
        self._at = 0
        self._points: tuple[Points, Points] | None = None
        self._mask: Tensor | None = None
        self._task: DragTask | None = None
        self._state: DragState | None = None
        self._steps_before = 0
        self.stop_reason: StopReason | None = None

    @property
    def w(self) -> Tensor:
        """The present latent [1, L, D]: the running drag's last step, or its best state once it has ended."""
        return self._edits[self._at - 1].w if self._at else self._start

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits that led from the start to the present latent, a running drag last."""
        return tuple(self._edits[: self._at])

    @property
    def running(self) -> bool:
        """Whether a drag is under way."""
        return self._task is not None

    @property
    def can_undo(self) -> bool:
        """Whether there is an earlier latent."""
        return self._at > 0

    @property
    def can_redo(self) -> bool:
        """Whether an undone drag can be had again."""
        return self._at < len(self._edits)

    def render(self) -> Tensor:
        """The present picture [1, 3, R, R], about [-1, 1]; drawn only when asked for."""
        with torch.no_grad():
            return self._generator.synthesize(self.w, "const", self._noise)

    def set_points(self, handles: PointsLike, targets: PointsLike) -> None:
        """Points [N, 2] of the next drag; a running one goes on towards them from where it is.

        UsageError for points that do not fit; nothing has changed then.
        """
        points = check_pairs(handles, targets, self._generator.resolution)
        if self.running:
            self._turn(points, self._mask)
        self._points = points

    def set_mask(self, mask: Tensor | None) -> None:
        """Where the picture may change in the next drag, [1, 1, R, R] in [0, 1]; a running one goes on with it."""
        if self.running and self._points is not None:
            self._turn(self._points, mask)
        self._mask = mask

    def start(
        self, handles: PointsLike | None = None, targets: PointsLike | None = None, mask: Tensor | None = None
    ) -> DragStep:
        """Begin a drag from the present latent, with the points and mask given here or set before.

        A running drag ends as if stopped. UsageError for points or masks that do not fit; nothing has changed then.
        """
        if handles is not None or targets is not None:
            points = check_pairs(handles, targets, self._generator.resolution)
        elif self._points is not None:
            points, mask = self._points, self._mask if mask is None else mask
        else:
            raise UsageError("No points are set: call set_points(handles, targets), or give them to start.")
        if self.running:
            self.stop()
        task = self._prepared(points, mask)
        self._points, self._mask, self._steps_before = points, mask, 0
        self._edits = [*self._edits[: self._at], Edit(*points, mask, self.w, 0, None)]
        self._at += 1
        return self._begin(task)

    def step(self) -> DragStep:
        """One step of the running drag; `stop_reason` is set when it was the last. UsageError when none is running."""
        if self._task is None or self._state is None:
            raise UsageError("No drag is running: call start(handles, targets) first.")
        task, state = self._task, advance(self._task, self._state)
        self._state = state
        self._keep(latent(task, state.code.detach()), self._steps_before + state.step)
        self._close(verdict(task, state))
        return report(task, state)

    def run(
        self, on_step: Callable[[DragStep], None] | None = None, should_stop: Callable[[], bool] | None = None
    ) -> Tensor:
        """Step until the running drag ends, and return its latent [1, L, D]."""
        while self.running:
            if should_stop is not None and should_stop():
                return self.stop()
            step = self.step()
            if on_step is not None:
                on_step(step)
        return self.w

    def stop(self) -> Tensor:
        """End the running drag, if any, and return its best latent [1, L, D]."""
        if self.running:
            self._close("stopped")
        return self.w

    def move(self, direction: str, amount: float, layers: str = "all") -> Tensor:
        """Move the present latent along a direction of the generator (`editing.directions`), as an edit: the latent
        [1, L, D] there. A running drag ends as if stopped. UsageError for a direction or layers that it has not."""
        found = parse_layers(self._generator, layers)
        row = pick_direction(self._generator, parse_direction(direction), found, self.w)
        self.stop()
        w, none = moved(self.w, row, [amount], found), np.zeros((0, 2))
        self._edits = [
            *self._edits[: self._at],
            Edit(none, none, None, w, 0, "arrived", Along(direction, amount, layers)),
        ]
        self._at += 1
        self.stop_reason = "arrived"
        return self.w

    def undo(self) -> Tensor:
        """Back to the latent before the last drag; UsageError when there is none."""
        if not self.can_undo:
            raise UsageError("There is no drag to undo.")
        return self._go(self._at - 1)

    def redo(self) -> Tensor:
        """Forward to the drag that was undone last; UsageError when there is none."""
        if not self.can_redo:
            raise UsageError("There is no undone drag to redo.")
        return self._go(self._at + 1)

    def replay(self, edits: tuple[Edit, ...]) -> Tensor:
        """Make the edits of another session here, one after the other: the latent [1, L, D] that they lead to."""
        for edit in edits:
            if edit.along is not None:
                self.move(edit.along.direction, edit.along.amount, edit.along.layers)
                continue
            self.start(edit.handles, edit.targets, edit.mask)
            self.run()
        return self.w

    def save(self, path: Path) -> None:
        """Write the session to a safetensors file: every latent, points, masks, noise and settings; a running drag as
        far as it has come. OutputError when it cannot be written."""
        edits = [replace(edit, stop_reason=edit.stop_reason or "stopped") for edit in self._edits]
        tensors = {f"noise/{name}": value for name, value in (self._noise or {}).items()}
        tensors |= {f"w/{number}": w for number, w in enumerate([self._start, *(edit.w for edit in edits)])}
        tensors |= {f"mask/{number}": edit.mask for number, edit in enumerate(edits) if edit.mask is not None}
        drags = [
            {"handles": e.handles.tolist(), "targets": e.targets.tolist(), "steps": e.steps, "stop": e.stop_reason}
            | ({} if e.along is None else {"along": asdict(e.along)})
            for e in edits
        ]
        write_record(path, Record(tensors, drags, self._at, self._settings))

    @classmethod
    def load(cls, path: Path, generator: Generator) -> DragSession:
        """The session of a file, on the generator that it was made with. ModelError for a file that is no session,
        UsageError when it does not fit the generator."""
        record = read_record(path)
        tensors = {name: value.to(generator.w_avg.device) for name, value in record.tensors.items()}
        noise = {name[len("noise/") :]: value for name, value in tensors.items() if name.startswith("noise/")}
        session = cls(generator, tensors["w/0"], noise or None, record.settings)
        for number, drag in enumerate(record.drags):
            w = tensors[f"w/{number + 1}"]
            check_start(generator, w)
            mask, steps, stop = tensors.get(f"mask/{number}"), drag["steps"], drag["stop"]
            along = Along(**drag["along"]) if "along" in drag else None
            points = NO_POINTS, NO_POINTS
            if along is None:
                points = check_pairs(drag["handles"], drag["targets"], generator.resolution)
            session._edits.append(Edit(*points, mask, w, steps, stop, along))
        session._at = record.at
        return session

    def _prepared(self, points: tuple[Points, Points], mask: Tensor | None) -> DragTask:
        here, weights = (self._generator, self.w, self._noise), states_of(self._generator)
        maps = self._maps[1] if self._maps is not None and self._maps[0] == weights else None
        task = prepare(*here, *points, mask, self._settings, self._axes, maps=maps)
        self._maps = weights, task.maps
        return task

    def _turn(self, points: tuple[Points, Points], mask: Tensor | None) -> None:
        """Let the running drag go on from where it is, towards other points or with another mask."""
        task = self._prepared(points, mask)
        edit = self._edits[self._at - 1]
        self._steps_before = edit.steps
        self._edits[self._at - 1] = replace(edit, handles=points[0], targets=points[1], mask=mask)
        self._begin(task)

    def _begin(self, task: DragTask) -> DragStep:
        state = begin(task)
        self._task, self._state = task, state
        self._close(verdict(task, state))
        return report(task, state)

    def _keep(self, w: Tensor, steps: int) -> None:
        self._edits[self._at - 1] = replace(self._edits[self._at - 1], w=w, steps=steps)

    def _go(self, index: int) -> Tensor:
        self.stop()
        self._at = index
        return self.w

    def _close(self, reason: StopReason | None) -> None:
        self.stop_reason = reason
        if reason is not None and self._task is not None and self._state is not None:
            self._keep(latent(self._task, self._state.best_code), self._edits[self._at - 1].steps)
            self._edits[self._at - 1] = replace(self._edits[self._at - 1], stop_reason=reason)
            self._task = self._state = None
