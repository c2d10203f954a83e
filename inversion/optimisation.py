"""The optimisation loop that projector and tuner share: best-so-far, early stop, checkpoints, the way back from NaN."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from data.errors import PhotodragError

Checkpoint = Mapping[str, Any]
"""A flat dict of tensors, numbers, strings and lists of them."""

GOOD_EVERY = 10
"""Steps between the states that are kept to go back to; each counts only once its own loss was a number."""
MOST_ROLLBACKS = 5
"""After so many an optimisation is given up: its steps are then a 32nd of what was asked, and do not help."""


@dataclass(frozen=True, eq=False, slots=True)
class StepInfo:
    """Progress of a loop: `step` of `total` is done, its `loss`, and `state()` builds a checkpoint when asked.

    rollbacks: how often the loop went back to a good state because its loss was not a number.
    """

    step: int
    total: int
    loss: float
    state: Callable[[], dict[str, Any]]
    rollbacks: int = 0


OnStep = Callable[[StepInfo], None]


class DivergedError(PhotodragError):
    """A loss or a picture became NaN or infinite, and there is no usable state to keep."""


def check_numbers(what: str, mend: str, *tensors: Tensor) -> None:
    """Raise DivergedError when a tensor holds NaN or infinity: `what` they are, `mend` says what helps."""
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise DivergedError(f"{what} is not made of numbers: {mend}.")


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


@dataclass(frozen=True, eq=False, slots=True)
class _Good:
    """Copies of the variables and of what is kept from step to step, as they were before the step `step`."""

    step: int
    variables: dict[str, Tensor]
    kept: dict[str, Tensor]


class OptimisationLoop:
    """Adam over named tensors. Continues from a checkpoint to the numbers that an unbroken run would have had.

    Where the loss becomes NaN or infinite it goes back to the last good state, forgets its momentum and takes steps of
    half the size from there on, up to MOST_ROLLBACKS times.
    """

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
        self.rollbacks = 0
        self._lr = lr
        self._good: _Good | None = None

    def _set_rate(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["rate"] * 0.5**self.rollbacks

    def run(
        self,
        total: int,
        evaluate: Callable[[int], Evaluation],
        stop: StopRule,
        lr_at: Callable[[float], float] | None = None,
        after_step: Callable[[], None] | None = None,
        on_step: OnStep | None = None,
    ) -> str:
        """Descend until `total` steps or every picture stops; returns the reason: cap, target, plateau or diverged.

        It is `diverged` when the loss is not a number at the start, or again after MOST_ROLLBACKS ways back.
        """
        while self.step < total:
            self._set_rate(self._lr if lr_at is None else lr_at(self.step / total))
            kept_before = self._copies() if self.step % GOOD_EVERY == 0 or self._good is None else None
            found = evaluate(self.step)
            losses, parts = found.loss.detach().tolist(), found.reconstruction.detach().tolist()
            if not all(abs(value) < float("inf") for value in (*losses, *parts)):
                if not self._roll_back():
                    return "diverged"
                continue
            self._good = kept_before or self._good
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
                on_step(StepInfo(self.step, total, sum(losses) / len(losses), self.checkpoint, self.rollbacks))
            if max(self.best.score) <= stop.target_loss:
                return "target"
            if stop.patience and all(0 <= best < self.step - stop.patience for best in self.best.step):
                return "plateau"
        return "cap"

    def _copies(self) -> _Good:
        variables = {name: value.detach().clone() for name, value in self.variables.items()}
        return _Good(self.step, variables, {name: value.clone() for name, value in self.kept.items()})

    def _roll_back(self) -> bool:
        """Go on from the last good state with steps of half the size; False when that has been tried often enough."""
        if self._good is None or self.rollbacks == MOST_ROLLBACKS:
            return False
        self.rollbacks += 1
        self.step = self._good.step
        with torch.no_grad():
            for name, variable in self.variables.items():
                variable.copy_(self._good.variables[name])
        self.kept.clear()
        self.kept.update({name: value.clone() for name, value in self._good.kept.items()})
        self.optimizer.state.clear()  # its moments may hold what is not a number
        self.history = {name: rows[: self.step] for name, rows in self.history.items()}
        self.best.recent = []
        return True

    def result(self) -> dict[str, Tensor]:
        """The best tensors, or the last ones when the run was shorter than one turn of the views; always numbers."""
        found = self.best.tensors or self.variables
        if self._good is not None and not all(bool(value.isfinite().all()) for value in found.values()):
            found = self._good.variables  # the last step of a short run led nowhere
        return {name: value.detach().clone() for name, value in found.items()}

    def told(self) -> dict[str, float]:
        """What the metrics say of ways back: `rollbacks`, and nothing when there were none."""
        return {"rollbacks": float(self.rollbacks)} if self.rollbacks else {}

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
        state["rollbacks"] = self.rollbacks
        if self._good is not None:
            state["good/step"] = self._good.step
            state |= {f"good/variable/{name}": value.clone() for name, value in self._good.variables.items()}
            state |= {f"good/kept/{name}": value.clone() for name, value in self._good.kept.items()}
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
        self.rollbacks = int(state.get("rollbacks", 0))  # checkpoints of earlier versions have neither
        if "good/step" in state:
            copies = [
                {name: value.clone() for name, value in _under(state, f"good/{kind}/").items()}
                for kind in ("variable", "kept")
            ]
            self._good = _Good(int(state["good/step"]), *copies)


def _rows(stored: Sequence[Sequence[float]]) -> list[list[float]]:
    return [list(row) for row in stored]


def _under(state: Checkpoint, prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
