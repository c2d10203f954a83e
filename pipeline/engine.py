"""Runs one stage: takes its finished output when there is one, computes and stores it when there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from data.errors import PhotodragError
from pipeline.artifacts import Checkpoints, DamagedFilesError, StageStore, StageWriter, plain, stage_key
from pipeline.errors import naming_stage
from pipeline.progress import Console
from pipeline.shortage import naming_shortage

T = TypeVar("T")
C = TypeVar("C")

Fresh = dict[tuple[Path, str, str], bool]
"""(store, stage, key) of each output that was computed, and whether it was continued from a checkpoint."""


class MissingStageError(PhotodragError):
    """A stage that this run may not compute has no finished output."""

    def __init__(self, stage: str) -> None:
        super().__init__(f"The stage {stage} is not finished.")
        self.stage = stage


@dataclass(frozen=True, eq=False, slots=True)
class Attempt:
    """One computation of a stage: the state to continue from (None: from the start) and where to store new ones."""

    resume: dict[str, Any] | None
    checkpoints: Checkpoints


@dataclass(frozen=True, eq=False, slots=True)
class StageSpec(Generic[C, T]):
    """How the output of one stage is stored.

    version: raised whenever the stage's code gives another output for the same inputs. save writes the files of what
    was computed; load reads from them what the next stages get, also right after computing, so that a fresh output and
    a reused one are the same; facts gives the numbers and strings that the manifest tells about it.
    """

    name: str
    version: int
    save: Callable[[StageWriter, C], None]
    load: Callable[[Path], T]
    facts: Callable[[T], Mapping[str, Any]]


@dataclass(frozen=True, eq=False, slots=True)
class StageRecord:
    """What the manifest tells about one stage of one run; `seconds` is the time spent in this run.

    `computed_seconds` is the time that the output took when it was computed, in this run or an earlier one.
    """

    stage: str
    key: str
    version: int
    face: int | None
    reused: bool
    resumed: bool
    seconds: float
    computed_seconds: float
    facts: Mapping[str, Any]


@dataclass(frozen=True, eq=False, slots=True)
class Stored(Generic[T]):
    """A stage's output with its key and the folder that holds its files."""

    value: T
    key: str
    folder: Path
    record: StageRecord


class Engine:
    """Gives stage outputs from the store or computes them.

    requested: names of the stages that may be computed; the others must be finished. resume=False computes requested
    stages again from their start. on_record is called once for each stage that is obtained. fresh: what this call of
    the program has computed already, by store, stage and key, and whether it was continued from a checkpoint; it counts
    as computed and not as reused, and resume=False does not compute it a second time.
    """

    def __init__(
        self,
        store: StageStore,
        console: Console,
        requested: Collection[str],
        resume: bool,
        on_record: Callable[[StageRecord], None],
        fresh: Fresh | None = None,
    ) -> None:
        self.store = store
        self.console = console
        self.requested = frozenset(requested)
        self.resume = resume
        self._on_record = on_record
        self.fresh = fresh

    def obtain(
        self,
        spec: StageSpec[C, T],
        inputs: Mapping[str, Any],
        compute: Callable[[Attempt], C],
        face: int | None = None,
        known_key: str | None = None,
    ) -> Stored[T]:
        """Output of a stage for `inputs` (everything that decides it, as JSON), or the one stored under `known_key`.

        compute receives the state to continue from and the place of its checkpoints. Raises MissingStageError when the
        output is not there and the stage was not requested, OutputError when it cannot be stored, and whatever compute
        raises.
        """
        started = time.monotonic()
        key = known_key or key_of(spec, inputs)
        stored = self.find(spec, key, face, started)
        if stored is None:
            if spec.name not in self.requested:
                raise MissingStageError(spec.name)
            stored = self._compute(spec, key, inputs, compute, face, started)
        self._on_record(stored.record)
        return stored

    def find(
        self, spec: StageSpec[Any, T], key: str, face: int | None = None, started: float | None = None
    ) -> Stored[T] | None:
        """The finished output under a key that this run may use; None when it must be computed. It is not recorded."""
        started = time.monotonic() if started is None else started
        resumed = (self.fresh or {}).get((self.store.root, spec.name, key))
        if resumed is None and spec.name in self.requested and not self.resume:
            return None
        folder = self.store.folder(spec.name, key)
        try:
            description = self.store.finished(spec.name, key)
            if description is None:
                return None
            value = spec.load(folder)
            computed_seconds = float(description["seconds"])
        except (DamagedFilesError, OSError, KeyError, TypeError, ValueError) as error:
            aside = self.store.set_aside(spec.name, key)
            self.console.warn(f"the stored {spec.name} stage is damaged ({error}); it was moved to {aside}")
            return None
        reused = resumed is None
        seconds = time.monotonic() - started if reused else computed_seconds
        facts = spec.facts(value)
        record = StageRecord(
            spec.name, key, spec.version, face, reused, bool(resumed), seconds, computed_seconds, facts
        )
        return Stored(value, key, folder, record)

    def _compute(
        self,
        spec: StageSpec[C, T],
        key: str,
        inputs: Mapping[str, Any],
        compute: Callable[[Attempt], C],
        face: int | None,
        started: float,
    ) -> Stored[T]:
        checkpoints = self.store.checkpoints(spec.name, key)
        if not self.resume:
            checkpoints.clear()
        attempt = Attempt(load_checkpoint(checkpoints, self.console, spec.name), checkpoints)
        with naming_stage(spec.name), naming_shortage(spec.name):
            computed = compute(attempt)
        seconds = time.monotonic() - started
        resumed = attempt.resume is not None
        self.put(spec, key, inputs, computed, seconds, resumed)
        checkpoints.clear()
        folder = self.store.folder(spec.name, key)
        value = spec.load(folder)
        record = StageRecord(spec.name, key, spec.version, face, False, resumed, seconds, seconds, spec.facts(value))
        return Stored(value, key, folder, record)

    def put(
        self,
        spec: StageSpec[C, Any],
        key: str,
        inputs: Mapping[str, Any],
        computed: C,
        seconds: float,
        resumed: bool,
    ) -> None:
        """Store an output that took `seconds`; resumed: whether it was continued from a checkpoint."""
        description = {"version": spec.version, "seconds": seconds, "inputs": inputs}
        with self.store.writer(spec.name, key, description) as writer:
            spec.save(writer, computed)
        if self.fresh is not None:
            self.fresh[self.store.root, spec.name, key] = resumed


def key_of(spec: StageSpec[Any, Any], inputs: Mapping[str, Any]) -> str:
    """Key of a stage's output for `inputs`, everything that decides it."""
    return stage_key({"stage": spec.name, "version": spec.version, "inputs": plain(inputs)})


def load_checkpoint(checkpoints: Checkpoints, console: Console, name: str) -> dict[str, Any] | None:
    """Newest state of an unfinished optimisation; a damaged one is dropped with a warning."""
    try:
        state = checkpoints.load()
    except DamagedFilesError as error:
        console.warn(f"the checkpoint of {name} is damaged ({error}); {name} starts again")
        checkpoints.clear()
        return None
    if state is not None:
        console.say(f"{name}: continuing from its last checkpoint")
    return state
