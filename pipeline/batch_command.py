"""`photodrag batch`: one recipe over many photos. What can be refused is refused before torch loads."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import OutputError, UsageError
from pipeline.batch_config import read_shard
from pipeline.folders import BESIDE, check_photos, effective, experiment_name
from pipeline.photo_lists import STDIN, PhotoList, fixed_part, in_shard, list_photos
from pipeline.schema import RunConfig

if TYPE_CHECKING:
    from pipeline.batch_delivery import Saving
    from pipeline.batch_run import BatchRun
    from pipeline.ledger import Ledger


@dataclass(frozen=True, eq=False, slots=True)
class BatchCommand:
    """What was given: words that name photos, overrides in Hydra's grammar, the settings that they make, --debug."""

    words: tuple[str, ...]
    overrides: tuple[str, ...]
    config: RunConfig
    debug: bool = False


def batch(command: BatchCommand) -> int:
    """Run a batch and return the exit code: 1 when a photo failed or was not reached. Usage errors are raised.

    Prints a line for each photo that fails (for each at all with progress=false), and at the end where everything is.
    """
    stdin = sys.stdin.buffer if STDIN in command.words else None
    config = checked(command.config)
    listed = list_photos(command.words, config.out, stdin)
    check_photos(config, [Path(listed.photos[0].path)])
    if config.save not in (None, BESIDE):
        from pipeline.delivery import check_writable

        check_writable(str(config.save), Path(os.path.abspath(str(config.save))))

    from pipeline.memory import keep_freed_memory

    keep_freed_memory()
    return _Call(replace(command, config=config), listed).run()


def checked(config: RunConfig) -> RunConfig:
    """The settings, with a slash behind the folder of `save`; UsageError for those that a batch does not take."""
    asked = {"tune.shared=true": config.tune.shared, f"invert.batch={config.invert.batch}": config.invert.batch > 1}
    together = [text for text, given in asked.items() if given]
    if together and config.align.face != "all":
        raise UsageError(
            f"{together[0]} computes several photos together, and photodrag batch computes each by itself: leave it "
            "out, or give the photos to photodrag without the word batch"
        )
    save = config.save
    if save not in (None, BESIDE):
        if os.path.isfile(str(save)):
            raise UsageError(f"save is {save}, a file, and a batch saves many: give a folder or save={BESIDE}")
        save = os.path.join(str(save), "")
    return replace(config, save=save)


def batch_name(words: Sequence[str]) -> str | None:
    """The middle of the name of a batch's folder; None where it follows from a single folder, list or photo."""
    if len(words) != 1:
        return None
    if words[0] == STDIN:
        return "list"
    fixed = fixed_part(words[0])
    return None if fixed is None else os.path.basename(os.path.abspath(fixed))


class _Call:
    """One call of the command, from the listed photos to the printed lines."""

    def __init__(self, command: BatchCommand, listed: PhotoList) -> None:
        self.command, self.config, self.listed = command, command.config, listed
        name = batch_name(command.words)
        self.folder = Path(self.config.out).absolute() / experiment_name(
            command.words, command.overrides, name, kind="batch"
        )
        self.own = self.folder
        self.photos = listed.photos
        if self.config.batch.shard is not None:
            from pipeline.ledger import PART_OF, SHARDS

            number, count = read_shard(self.config.batch.shard)
            self.own = self.folder / SHARDS / f"{number}{PART_OF}{count}"
            self.photos = in_shard(listed.photos, number, count)

    def run(self) -> int:
        """Compute, save and tell; the exit code."""
        from pipeline.artifacts import ensure_folder, writing
        from pipeline.locks import LOCK_FILE, LockedError, file_lock

        ensure_folder(self.own)
        with contextlib.ExitStack() as held:
            with writing(self.own):
                try:
                    held.enter_context(file_lock(self.own / LOCK_FILE))
                except LockedError as error:
                    raise UsageError(
                        f"The batch in {self.own} is in use by {error}: wait until it has ended, or give each process "
                        "a part of the photos with shard=i/n"
                    ) from error
            return self._run()

    def _run(self) -> int:
        from pipeline.batch_recipe import job_of, recipe_hash
        from pipeline.batch_run import BatchRun
        from pipeline.executors.table import executor_for
        from pipeline.ledger import HashCache, Ledger
        from pipeline.progress import Console
        from pipeline.run import perceptual_line, perceptual_of

        config, console = self.config, Console(self.config.progress)
        job = job_of(config, recipe_hash(config), self.command.debug)
        ledger = Ledger.open(self.folder, self.own)
        run = BatchRun(
            self.folder, self.own, config.out, job, self.photos, ledger, HashCache(self.folder, self.own),
            self._saving(ledger), console, config.batch.max_failures,
        )  # fmt: skip
        console.say(perceptual_line(perceptual_of(config)))
        threads = f"{job.threads} thread{'s' if job.threads > 1 else ''}"
        workers = f"{job.workers or 'all'} worker{'' if job.workers == 1 else 's'}"
        who = f"executor={config.executor.name}, {workers} of {threads}"
        console.say(f"batch: {len(self.photos)} photos, {who}")
        for name in self.listed.unreadable:
            console.warn(f"the folder {name} cannot be read, and is left out")
        started = time.monotonic()
        with self._told_when_stopped(run, started):
            run.run(executor_for(config.executor))
        return self._finish(run, started, complete=not run.stopped)

    def _saving(self, ledger: Ledger) -> Saving | None:
        """Where results are saved; None without `save`, and of a recipe that ends before it has any."""
        from pipeline.batch_delivery import Saving
        from pipeline.batch_names import plan_targets
        from pipeline.batch_recipe import FORMATS
        from pipeline.delivery import Inputs, inputs_of

        config, photos = self.config, self.listed.photos
        if config.save is None or config.stages[-1] != "blend":
            return None
        targets = plan_targets(photos, config.batch.names, config.save, FORMATS[config.blend.format])

        def inputs() -> Inputs:
            return Inputs([*(Path(photo.path) for photo in photos), *inputs_of(config)])

        return Saving(dict(zip(photos, targets, strict=True)), config.batch.names, config.on_exists, ledger, inputs)

    @contextlib.contextmanager
    def _told_when_stopped(self, run: BatchRun, started: float) -> Iterator[None]:
        """Write the tables of what has ended when the block ends before all has."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(OutputError):
                self._finish(run, started, complete=False)
            raise

    def _finish(self, run: BatchRun, started: float, complete: bool) -> int:
        from pipeline.batch_report import REPORT, SUMMARY, BatchFacts, write_batch
        from pipeline.experiment import RESULTS_CSV

        facts = BatchFacts(
            self.folder, self.own, self.command.words, effective(self.command.overrides), self.config.batch.shard,
            self.listed.skipped, self.config.batch.page_photos, complete, time.monotonic() - started, run.computed,
            run.job.workers, run.job.threads,
        )  # fmt: skip
        summary = write_batch(facts, run.all_ends())
        for line in _ending(summary, run.stopped, self.config.batch.max_failures):
            print(line)
        for word, name in (("table: ", RESULTS_CSV), ("report:", REPORT), ("summary:", SUMMARY)):
            print(f"{word} {self.own / name}")
        return int(summary["exit_code"])


def _ending(summary: dict[str, object], stopped: bool, max_failures: int) -> Sequence[str]:
    """What is said when a batch ends."""
    counts = [f"{summary['done']} of {summary['photos']} photos done", f"{summary['failed']} failed"]
    counts += [f"{summary['missing']} not reached"] if summary["missing"] else []
    counts += [f"{summary['computed']} computed in {summary['seconds']:.1f} s"]
    lines = [", ".join(counts)]
    if stopped:
        text = "the same command tries them again and goes on with the rest"
        lines.append(f"stopped, because max_failures={max_failures} photos have failed: {text}")
    return lines
