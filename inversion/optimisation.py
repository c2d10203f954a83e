"""The optimisation loop that projector and tuner share: best-so-far, early stop, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from data.errors import PhotodragError

Checkpoint = Mapping[str, Any]
"""A flat dict of tensors, numbers, strings and lists of them."""


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
    """Keeps, for each picture of a batch, the tensors of its lowest mean loss over one turn of the perceptual views.

    In a batch of several, the first dimension of every tensor counts the pictures.
    """

    window: int
    pictures: int
    recent: list[list[float]] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.score, self.step = [float("inf")] * self.pictures, [-1] * self.pictures

    def offer(self, step: int, losses: Sequence[float], tensors: Mapping[str, Tensor]) -> None:
        """Record each picture's loss; keep copies of what belongs to those whose mean over the window is the lowest."""
        self.recent = [*self.recent, list(losses)][-self.window :]
        if len(self.recent) < self.window:
            return
        means = [sum(row[i] for row in self.recent) / self.window for i in range(self.pictures)]
        better = [i for i, mean in enumerate(means) if mean < self.score[i]]
        for i in better:
            self.score[i], self.step[i] = means[i], step
        if len(better) == self.pictures:
            self.tensors = {name: value.detach().clone() for name, value in tensors.items()}
        elif better:
            for name, value in self.tensors.items():
                value[better] = tensors[name].detach()[better]


@dataclass(frozen=True, eq=False, slots=True)
class Evaluation:
    """One forward pass over N pictures: the `loss` [N] to descend (with graph), and the pictures' part of it [N].

    What does not count, as a first, coarse look, is never the best state and reaches no target.
    """

    loss: Tensor
    reconstruction: Tensor
    counts: bool = True


class OptimisationLoop:
    """Adam over named tensors. Continues from a checkpoint to the numbers that an unbroken run would have had."""

    def __init__(
        self,
        variables: Mapping[str, Tensor],
        lr: float,
        window: int,
        rng: torch.Generator,
        pictures: int = 1,
        rates: Mapping[str, float] | None = None,
        kept: dict[str, Tensor] | None = None,
    ) -> None:
        """`variables` are leaves with gradients; `window` steps make one turn of the perceptual views.

        `rates` multiplies the step size of single variables. Of more than one picture, every variable's first
        dimension counts them. `kept` are tensors that `evaluate` carries from step to step; checkpoints hold them.
        """
        self.variables = dict(variables)
        groups: dict[float, list[Tensor]] = {}
        for name, variable in self.variables.items():
            groups.setdefault((rates or {}).get(name, 1.0), []).append(variable)
        self.optimizer = torch.optim.Adam(
            [{"params": found, "rate": rate} for rate, found in groups.items()], lr=lr, betas=(0.9, 0.999)
        )
        self.pictures = pictures
        self.best = BestSoFar(window, pictures)
        self.history: dict[str, list[list[float]]] = {"loss": [], "reconstruction": []}
        self.rng = rng
        self.kept = {} if kept is None else kept
        self.step = 0
        self._set_rate(lr)

    def _set_rate(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["rate"]

    def run(
        self,
        total: int,
        evaluate: Callable[[int], Evaluation],
        stop: StopRule,
        lr_at: Callable[[float], float] | None = None,
        after_step: Callable[[], None] | None = None,
        on_step: OnStep | None = None,
    ) -> str:
        """Descend until `total` steps or every picture stops; returns the reason: cap, target, plateau or diverged."""
        while self.step < total:
            if lr_at is not None:
                self._set_rate(lr_at(self.step / total))
            found = evaluate(self.step)
            losses, parts = found.loss.detach().tolist(), found.reconstruction.detach().tolist()
            if not all(loss < float("inf") for loss in losses):
                return "diverged"
            self.history["loss"].append(losses)
            self.history["reconstruction"].append(parts)
            if found.counts:
                self.best.offer(self.step, parts, self.variables)
            self.optimizer.zero_grad(set_to_none=True)
            found.loss.sum().backward()
            self.optimizer.step()
            if after_step is not None:
                after_step()
            self.step += 1
            if on_step is not None:
                on_step(StepInfo(self.step, total, sum(losses) / len(losses), self.checkpoint))
            if max(self.best.score) <= stop.target_loss:
                return "target"
            if stop.patience and all(0 <= best < self.step - stop.patience for best in self.best.step):
                return "plateau"
        return "cap"

    def result(self) -> dict[str, Tensor]:
        """The best tensors, or the last ones when the run was shorter than one turn of the views."""
        found = self.best.tensors or self.variables
        return {name: value.detach().clone() for name, value in found.items()}

    def history_of(self, picture: int) -> dict[str, list[float]]:
        """The course of one picture: one number a step."""
        return {name: [row[picture] for row in rows] for name, rows in self.history.items()}

    def checkpoint(self) -> dict[str, Any]:
        """Everything needed to continue, as a flat dict of fresh tensors and numbers."""
        state: dict[str, Any] = {
            "step": self.step,
            "rng": self.rng.get_state(),
            "best/recent": [list(row) for row in self.best.recent],
            "best/score": list(self.best.score),
            "best/step": list(self.best.step),
        }
        state |= {f"history/{name}": [list(row) for row in rows] for name, rows in self.history.items()}
        state |= {f"variable/{name}": value.detach().clone() for name, value in self.variables.items()}
        state |= {f"kept/{name}": value.clone() for name, value in self.kept.items()}
        state |= {f"best/tensor/{name}": value.clone() for name, value in self.best.tensors.items()}
        for index, slot in self.optimizer.state_dict()["state"].items():
            state |= {f"adam/{index}/{key}": torch.as_tensor(value).clone() for key, value in slot.items()}
        return state

    def restore(self, state: Checkpoint) -> None:
        """Continue from `checkpoint()`; the variables keep their identity."""
        self.step = int(state["step"])
        self.rng.set_state(state["rng"])
        self.history = {name: _rows(state[f"history/{name}"]) for name in self.history}
        with torch.no_grad():
            for name, variable in self.variables.items():
                variable.copy_(state[f"variable/{name}"])
        self.best.recent = _rows(state["best/recent"])
        self.best.score, self.best.step = list(state["best/score"]), list(state["best/step"])
        self.best.tensors = {name: value.clone() for name, value in _under(state, "best/tensor/").items()}
        self.kept.update({name: value.clone() for name, value in _under(state, "kept/").items()})
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in _under(state, "adam/").items():
            index, key = name.split("/", 1)
            slots.setdefault(int(index), {})[key] = value.clone()
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})


def _rows(stored: Sequence[Sequence[float]]) -> list[list[float]]:
    return [list(row) for row in stored]


def _under(state: Checkpoint, prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
