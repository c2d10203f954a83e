"""Interactive dragging: the one stateful facade over the pure steps of `editing.drag`."""

from __future__ import annotations

import torch
from torch import Tensor

from data.errors import UsageError
from editing.axes import latent_axes
from editing.drag import DragSettings, DragState, DragStep, DragTask, StopReason, advance, begin, report, verdict
from editing.drag_task import latent, prepare
from editing.points import PointsLike
from inversion.generators.protocol import Generator, NoiseMaps


class DragSession:
    """Drags one after another on one latent, with undo and redo of whole drags.

    Example: `session.start(handles, targets)`, then `session.step()` until `session.stop_reason` is set; `session.w`
    and `session.image()` are the present latent [1, L, D] and picture [1, 3, R, R]. Points are (x, y) in crop pixels.
    """

    def __init__(
        self, generator: Generator, w: Tensor, noise: NoiseMaps | None = None, settings: DragSettings | None = None
    ) -> None:
        self._generator, self._noise = generator, noise
        self._settings = settings or DragSettings()
        self._axes = latent_axes(generator, w)
        self._history, self._at = [w.detach().clone()], 0
        self._task: DragTask | None = None
        self._state: DragState | None = None
        self.stop_reason: StopReason | None = None

    @property
    def w(self) -> Tensor:
        """The present latent [1, L, D]: the running drag's last step, or its best state once it has ended."""
        return self._history[self._at]

    @property
    def can_undo(self) -> bool:
        """Whether there is an earlier latent."""
        return self._at > 0

    @property
    def can_redo(self) -> bool:
        """Whether an undone drag can be had again."""
        return self._at + 1 < len(self._history)

    def image(self) -> Tensor:
        """The present picture [1, 3, R, R], about [-1, 1]."""
        with torch.no_grad():
            return self._generator.synthesize(self.w, "const", self._noise)

    def start(self, handles: PointsLike, targets: PointsLike, mask: Tensor | None = None) -> DragStep:
        """Begin a drag from the present latent: points [N, 2], mask [1, 1, R, R] with 1 where the picture may change.

        A running drag ends as if stopped. UsageError for points or masks that do not fit; nothing has changed then.
        """
        if self._task is not None:
            self.stop()
        task = prepare(self._generator, self.w, self._noise, handles, targets, mask, self._settings, self._axes)
        state = begin(task)
        self._task, self._state = task, state
        self._history = [*self._history[: self._at + 1], self.w]
        self._at += 1
        self._close(verdict(task, state))
        return report(task, state)

    def step(self) -> DragStep:
        """One step of the running drag; `stop_reason` is set when it was the last. UsageError when none is running."""
        if self._task is None or self._state is None:
            raise UsageError("No drag is running: call start(handles, targets) first.")
        task, state = self._task, advance(self._task, self._state)
        self._state = state
        self._history[self._at] = latent(task, state.code.detach())
        self._close(verdict(task, state))
        return report(task, state)

    def stop(self) -> Tensor:
        """End the running drag, if any, and return its best latent [1, L, D]."""
        if self._task is not None:
            self._close("stopped")
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

    def _go(self, index: int) -> Tensor:
        self.stop()
        self._at = index
        return self.w

    def _close(self, reason: StopReason | None) -> None:
        self.stop_reason = reason
        if reason is not None and self._task is not None and self._state is not None:
            self._history[self._at] = latent(self._task, self._state.best_code)
            self._task = self._state = None
