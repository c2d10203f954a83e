"""What a person sees while a run works: lines, warnings and progress bars; and a clean stop at Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Protocol, final

from tqdm import tqdm

from inversion.optimisation import StepInfo
from pipeline.artifacts import Checkpoints
from pipeline.bars import steady_bar


class Step(Protocol):
    """What an optimisation tells after each step: `step` counts from 1 to `total`."""

    @property
    def step(self) -> int:
        """Steps done."""
        ...

    @property
    def total(self) -> int:
        """Steps planned."""
        ...

    @property
    def loss(self) -> float:
        """Loss of this step."""
        ...


class TakenBackStep(Step, Protocol):
    """A step of an optimisation that takes steps back which lead to NaN."""

    @property
    def rollbacks(self) -> int:
        """How often it went back so far because the loss was not a number."""
        ...


class KeepsFrames(Protocol):
    """What draws pictures of an optimisation on its way, and travels with its checkpoints."""

    def keep(self, info: StepInfo) -> None:
        """Draw and keep the state of this step when it is due."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold of it."""
        ...


class Console:
    """Where a run writes its lines: results on standard output, warnings and progress on standard error.

    quiet: for a run that is one of many. Its lines are dropped and its bars vanish; warnings stay.
    """

    def __init__(self, progress: bool = True, quiet: bool = False) -> None:
        self.progress = progress
        self.quiet = quiet

    def say(self, line: str) -> None:
        """Print one line that does not tear a progress bar."""
        if self.quiet:
            return
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def warn(self, line: str) -> None:
        """Print one warning line on standard error."""
        tqdm.write(f"warning: {line}", file=sys.stderr)

    def bar(self, name: str) -> tqdm:
        """Progress bar with the stage's name; its length is set by the first step."""
        return steady_bar(desc=name, unit="step", disable=not self.progress, leave=not self.quiet)

    @contextlib.contextmanager
    def photos(self, count: int) -> Iterator[PhotoBar]:
        """The bar of a batch of `count` photos, for the length of a `with` block."""
        with steady_bar(total=count, desc="photos", unit="photo", disable=not self.progress, smoothing=0) as bar:
            yield PhotoBar(bar)

    @contextlib.contextmanager
    def steps(self, name: str) -> Iterator[Callable[[Step], None]]:
        """What shows the steps of a stage, for the length of a `with` block."""
        with self.bar(name) as bar:
            yield lambda info: show_step(bar, info)

    def stopping(self) -> bool:
        """Whether an edit shall end with the step that it is at, and keep its best state."""
        return False


class PhotoBar:
    """Progress of a batch, whose rate and time left count only the photos that this call computes."""

    def __init__(self, bar: tqdm) -> None:
        self._bar = bar
        self._failed = 0

    def step(self, reused: bool, failed: bool) -> None:
        """One more photo has ended."""
        if self._bar.disable:
            return
        if reused:
            self._bar.initial += 1
        if failed:
            self._failed += 1
            self._bar.set_postfix(failed=self._failed, refresh=False)
        self._bar.update(1)


def show_step(bar: tqdm, info: Step) -> None:
    """Move a progress bar to the step that `info` tells of."""
    if bar.disable:
        return
    bar.total = info.total
    bar.set_postfix(loss=f"{info.loss:.4g}", refresh=False)
    bar.update(info.step - bar.n)


@contextlib.contextmanager
def watched_steps(console: Console, name: str) -> Iterator[Callable[[Step], None]]:
    """An `on_step` callback that shows the progress, for the length of a `with` block."""
    with console.steps(name) as show:
        yield show


@contextlib.contextmanager
def stoppable_steps(
    console: Console, name: str, stop_after: int
) -> Iterator[tuple[Callable[[TakenBackStep], None], Callable[[], bool]]]:
    """`on_step` as above, and a `should_stop` that is true when the console says so or after `stop_after` steps (0:
    never), so that an edit that was stopped by hand can be made again."""
    done, rollbacks = 0, 0
    with console.steps(name) as show:

        def on_step(info: TakenBackStep) -> None:
            nonlocal done, rollbacks
            done += 1
            show(info)
            if info.rollbacks > rollbacks:
                console.warn(rolled_back(name, info.step, info.rollbacks))
            rollbacks = info.rollbacks

        yield on_step, lambda: 0 < stop_after <= done or console.stopping()


@contextlib.contextmanager
def checkpointed_steps(
    console: Console, name: str, checkpoints: Checkpoints, every_steps: int, frames: KeepsFrames | None = None
) -> Iterator[Callable[[StepInfo], None]]:
    """An `on_step` callback that also stores a checkpoint every `every_steps` steps, with the frames kept so far.

    A Ctrl-C between two steps is kept until the running step has ended: its state is stored, then KeyboardInterrupt
    ends the run. A second Ctrl-C ends it at once.
    """
    rollbacks = 0
    with console.steps(name) as show, _DelayedInterrupt() as interrupt:

        def on_step(info: StepInfo) -> None:
            nonlocal rollbacks
            show(info)
            if info.rollbacks > rollbacks:
                console.warn(rolled_back(name, info.step, info.rollbacks))
            rollbacks = info.rollbacks
            interrupt.delayed = True
            if frames is not None:
                frames.keep(info)
            due = info.step % every_steps == 0 and info.step < info.total
            if due or interrupt.seen:
                checkpoints.save(info.state() if frames is None else {**info.state(), **frames.state()})
            if interrupt.seen:
                raise KeyboardInterrupt

        yield on_step


def rolled_back(name: str, step: int, rollbacks: int) -> str:
    """What is said at the step `step`, once an optimisation has gone back because its loss was not a number."""
    return (
        f"{name}: the loss was not a number, so it went back to its last good state; it is at step {step} now, and its "
        f"steps are 1/{2**rollbacks} as long"
    )


@final
class _DelayedInterrupt:
    """Ctrl-C as a flag instead of an exception while `delayed` is set; only the main thread can have that."""

    def __init__(self) -> None:
        self.delayed = False
        self.seen = False
        self._previous: Any = None

    def __enter__(self) -> _DelayedInterrupt:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._on_interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
        if self.seen and kind is None:  # it fell after the last step
            raise KeyboardInterrupt

    def _on_interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if self.seen or not self.delayed:
            raise KeyboardInterrupt
        self.seen = True
