"""The optimisation loop that projector and tuner share: best-so-far, early stop, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from data.errors import PhotodragError

Checkpoint = Mapping[str, Any]
"""A flat dict of tensors, numbers, strings and lists of numbers."""


@dataclass(frozen=True, eq=False, slots=True)
class StepInfo:
    """Progress of a loop: `step` of `total` is done, its `loss`, and `state()` builds a checkpoint when asked."""

    step: int
    total: int
    loss: float
    state: Callable[[], dict[str, Any]]


OnStep = Callable[[StepInfo], None]


class DivergedError(PhotodragError):
    """The loss became NaN or infinite before any usable state."""


@dataclass(frozen=True, slots=True)
class StopRule:
    """When to stop before the cap: a reconstruction loss to reach, and steps without a better one (0: never)."""

    target_loss: float = 0.0
    patience: int = 0


@dataclass(eq=False, slots=True)
class BestSoFar:
    """Keeps the tensors of the lowest mean loss over one turn of the perceptual views."""

    window: int
    recent: list[float] = field(default_factory=list)
    score: float = float("inf")
    step: int = -1
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def offer(self, step: int, loss: float, tensors: Mapping[str, Tensor]) -> None:
        """Record a loss; keep a copy of `tensors` when the mean over the window is the lowest yet."""
        self.recent = [*self.recent, loss][-self.window :]
        score = sum(self.recent) / len(self.recent)
        if score < self.score and len(self.recent) == self.window:
            self.score, self.step = score, step
            self.tensors = {name: value.detach().clone() for name, value in tensors.items()}


@dataclass(frozen=True, eq=False, slots=True)
class Evaluation:
    """One forward pass: the `loss` to descend (with graph), and the picture's part of it."""

    loss: Tensor
    reconstruction: float


class OptimisationLoop:
    """Adam over named tensors. Continues from a checkpoint to the numbers that an unbroken run would have had."""

    def __init__(self, variables: Mapping[str, Tensor], lr: float, window: int, rng: torch.Generator) -> None:
        """`variables` are leaves with gradients; `window` steps make one turn of the perceptual views."""
        self.variables = dict(variables)
        self.optimizer = torch.optim.Adam(list(self.variables.values()), lr=lr, betas=(0.9, 0.999))
        self.best = BestSoFar(window)
        self.history: dict[str, list[float]] = {"loss": [], "reconstruction": []}
        self.rng = rng
        self.step = 0

    def run(
        self,
        total: int,
        evaluate: Callable[[int], Evaluation],
        stop: StopRule,
        lr_at: Callable[[float], float] | None = None,
        after_step: Callable[[], None] | None = None,
        on_step: OnStep | None = None,
    ) -> str:
        """Descend until `total` steps or a stop; returns the reason: cap, target, plateau or diverged."""
        while self.step < total:
            if lr_at is not None:
                for group in self.optimizer.param_groups:
                    group["lr"] = lr_at(self.step / total)
            found = evaluate(self.step)
            loss = float(found.loss.detach())
            if not loss < float("inf"):
                return "diverged"
            self.history["loss"].append(loss)
            self.history["reconstruction"].append(found.reconstruction)
            self.best.offer(self.step, found.reconstruction, self.variables)
            self.optimizer.zero_grad(set_to_none=True)
            found.loss.backward()
            self.optimizer.step()
            if after_step is not None:
                after_step()
            self.step += 1
            if on_step is not None:
                on_step(StepInfo(self.step, total, loss, self.checkpoint))
            if self.best.score <= stop.target_loss:
                return "target"
            if stop.patience and self.best.step >= 0 and self.step - self.best.step > stop.patience:
                return "plateau"
        return "cap"

    def result(self) -> dict[str, Tensor]:
        """The best tensors, or the last ones when the run was shorter than one turn of the views."""
        found = self.best.tensors or self.variables
        return {name: value.detach().clone() for name, value in found.items()}

    def checkpoint(self) -> dict[str, Any]:
        """Everything needed to continue, as a flat dict of fresh tensors and numbers."""
        state: dict[str, Any] = {
            "step": self.step,
            "rng": self.rng.get_state(),
            "best/recent": list(self.best.recent),
            "best/score": self.best.score,
            "best/step": self.best.step,
        }
        state |= {f"history/{name}": list(values) for name, values in self.history.items()}
        state |= {f"variable/{name}": value.detach().clone() for name, value in self.variables.items()}
        state |= {f"best/tensor/{name}": value.clone() for name, value in self.best.tensors.items()}
        for index, slot in self.optimizer.state_dict()["state"].items():
            state |= {f"adam/{index}/{key}": torch.as_tensor(value).clone() for key, value in slot.items()}
        return state

    def restore(self, state: Checkpoint) -> None:
        """Continue from `checkpoint()`; the variables keep their identity."""
        self.step = int(state["step"])
        self.rng.set_state(state["rng"])
        self.history = {name: [float(x) for x in state[f"history/{name}"]] for name in self.history}
        with torch.no_grad():
            for name, variable in self.variables.items():
                variable.copy_(state[f"variable/{name}"])
        self.best.recent = [float(x) for x in state["best/recent"]]
        self.best.score, self.best.step = float(state["best/score"]), int(state["best/step"])
        self.best.tensors = {name: value.clone() for name, value in _under(state, "best/tensor/").items()}
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in _under(state, "adam/").items():
            index, key = name.split("/", 1)
            slots.setdefault(int(index), {})[key] = value.clone()
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})


def _under(state: Checkpoint, prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
