"""The command `photodrag`: words in, exit code out. Start-up imports neither torch nor OpenCV nor dlib."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import __version__
from pipeline.arguments import Command, help_text, is_file, parse_arguments
from pipeline.errors import EXIT_DONE, EXIT_FAILED, PhotodragError, UsageError, exit_code, one_line, sentence
from pipeline.folders import check_photos, effective, experiment_name, find_photos
from pipeline.quoting import quote_path, split_override
from pipeline.schema import (
    JobInfo,
    RunConfig,
    check_runnable,
    compose,
    compose_raw,
    load,
    missing_mask,
    parse_overrides,
)

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from pipeline.batch import Batch
    from pipeline.experiment import Experiment
    from pipeline.run import RunOutcome
    from pipeline.table import FaceResult


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit code; failures print one sentence."""
    # Before torch loads: threads that spin while they wait make a run five times slower where a core is shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if isinstance(sys.stdout, io.TextIOWrapper):  # names that are no Unicode are printed as the bytes that they are
        unicode = sys.stdout.encoding.lower().replace("-", "") == "utf8"
        sys.stdout.reconfigure(errors="surrogateescape" if unicode else "backslashreplace")
    words = list(sys.argv[1:] if words is None else words)
    debug = "--debug" in (words[: words.index("--")] if "--" in words else words)
    try:
        code = _guarded(lambda: _dispatch(words, debug), debug)
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        if debug:
            traceback.print_exc()
        print(f"\nphotodrag: {sentence(error)}", file=sys.stderr)
        return exit_code(error)
    except BrokenPipeError:
        # The reader (head, less) has gone; with its pipe still open the interpreter would complain as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    return code


def _guarded(action: Callable[[], int], debug: bool) -> int:
    """The exit code of `action`; an error becomes a sentence on stderr, with a traceback only when `debug`."""
    try:
        return action()
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001  whatever went wrong, a person reads one sentence
        if debug:
            traceback.print_exc()
        print(f"photodrag: {sentence(error)}", file=sys.stderr)
        return exit_code(error)


def _dispatch(words: Sequence[str], debug: bool) -> int:
    command = parse_arguments(words)
    if command.verb == "help":
        print(help_text())
    elif command.verb == "version":
        print(f"photodrag {__version__}")
    elif command.verb == "models":
        from pipeline.model_commands import models

        return models(command.words, command.offline)
    elif command.verb == "directions":
        from pipeline.direction_sheet import directions

        return directions(command.words)
    elif command.verb == "replay":
        return _replay(command)
    elif command.verb == "doctor":
        from pipeline.doctor import doctor

        return doctor(as_json=command.json)
    elif command.verb == "explain":
        from pipeline.error_pages import explain_command

        return explain_command(command.words)
    elif command.show_config:
        _show_config(command)
    elif command.verb == "studio":
        return _studio(command, debug)
    elif command.verb == "batch":
        return _batch(command, debug)
    elif command.multirun:
        return _sweep(command, debug)
    elif command.photos:
        return _many_photos(command, debug)
    else:
        return _run(_runnable(command.overrides), job=None)
    return EXIT_DONE


def _show_config(command: Command) -> None:
    """Print the composed settings as YAML; of a sweep, those of its first job."""
    from omegaconf import OmegaConf

    overrides = next(_sweep_values(command.overrides)) if command.multirun else list(command.overrides)
    photos = () if command.verb == "batch" else command.photos[:1]
    overrides = [*(f"photo={quote_path(photo)}" for photo in photos), *overrides]
    raw = compose_raw(overrides)
    load(raw)
    print(OmegaConf.to_yaml(raw), end="")


def _runnable(overrides: Sequence[str], photos: Sequence[Path] = ()) -> RunConfig:
    """The config of overrides, for one photo or for `photos`, checked as far as it can be without opening a file."""
    config = compose(overrides)
    _check_paths(config)
    if photos:
        check_photos(config, photos)
    else:
        check_runnable(config)
    return config


def _check_paths(config: RunConfig) -> None:
    """Raise UsageError for a path that the run would need and that is not there."""
    files = {
        "photo": config.photo,
        "invert.mask": config.invert.mask_path,
        "edit.mask": config.edit.mask,
        "edit.like": config.edit.like,
        "blend.mask": config.blend.mask,
        "blend.c2pa_certificates": config.blend.c2pa_certificates,
        "blend.c2pa_key": config.blend.c2pa_key,
        "generator.path": config.generator.path,
    }
    folders = {"from": config.from_run, "perceptual.backbone_dir": config.perceptual.backbone_dir}
    for key, path in files.items():
        if path is not None and os.path.isdir(path):
            raise UsageError(f"{key} is {path}, a folder: allowed is one file")
        if path is not None and not is_file(path):
            if key == "invert.mask":
                raise missing_mask(path)
            hint = "; settings are written key=value, see photodrag --help" if key == "photo" else ""
            raise UsageError(f"{key} is {path}, which does not exist: allowed is the path of a file{hint}")
    for key, path in folders.items():
        if path is not None and not os.path.isdir(path):
            raise UsageError(f"{key} is {path}, which is no folder: allowed is the path of an existing folder")


def _run(config: RunConfig, job: JobInfo | None) -> int:
    from pipeline.memory import keep_freed_memory
    from pipeline.run import run

    keep_freed_memory()
    outcome = run(config, job)
    _print_outcome(outcome)
    return EXIT_FAILED if outcome.failures else EXIT_DONE


def _studio(command: Command, debug: bool) -> int:
    """The editor in the browser; what is missing is said before anything heavy is loaded."""
    from pipeline.studio.command import check_installed, studio

    check_installed()
    config = compose(command.overrides)
    _check_paths(config)
    assert command.studio is not None
    return studio(command.studio, config, debug)


def _batch(command: Command, debug: bool) -> int:
    """One recipe over many photos, by several workers."""
    from pipeline.batch_command import BatchCommand, batch

    config = compose(command.overrides)
    _check_paths(config)
    return batch(BatchCommand(command.photos, command.overrides, config, debug))


def _replay(command: Command) -> int:
    """Make the result of a recipe again, and say whether it is the recorded one."""
    from pipeline.replaying import open_replay

    replay = open_replay(command.words[0], command.photos, command.overrides, command.other_models)
    if command.show_config:
        _show_config(Command("run", replay.overrides))
        return EXIT_DONE
    config = compose(replay.overrides)

    from pipeline.memory import keep_freed_memory
    from pipeline.models import Models

    keep_freed_memory()
    models = Models()
    differences = replay.prepare(config, models)
    _check_paths(config)
    check_runnable(config)
    for note in replay.notes:
        print(note)
    outcome, verdict = replay.run(config, models, differences)
    _print_outcome(outcome)
    print(verdict)
    return EXIT_FAILED if outcome.failures else EXIT_DONE


def _many_photos(command: Command, debug: bool) -> int:
    """Run every photo that is given and write the experiment's folder; 1 when any photo failed."""
    found = find_photos(command.photos)
    config = _runnable(command.overrides, found.photos)

    from pipeline.batch import Batch
    from pipeline.memory import keep_freed_memory
    from pipeline.table import JobValues

    keep_freed_memory()
    batch = Batch(debug)
    experiment = _experiment(command, config, found.skipped)
    with _tables_kept(experiment, batch):
        batch.run_photos(config, found.photos, None, JobValues(overrides=tuple(effective(command.overrides))))
    _finish_experiment(experiment, batch.results)
    return EXIT_FAILED if any(result.failed for result in batch.results) else EXIT_DONE


def _print_outcome(outcome: RunOutcome) -> None:
    """Say where the result, the report and the run folder are; failures go to stderr."""
    for path in outcome.results:
        print(f"result: {path}")
    if outcome.saved is not None:
        print(f"saved:  {outcome.saved}")
    if outcome.report is not None:
        print(f"report: {outcome.report}")
    print(f"run:    {outcome.run_dir}")
    for failure in outcome.failures:
        print(f"photodrag: {failure}", file=sys.stderr)


def _sweep(command: Command, debug: bool) -> int:
    """Run every combination of the swept values through Hydra's sweeper and launcher; 1 when any job failed."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    found = find_photos(command.photos)
    configs = [_runnable(overrides, found.photos) for overrides in _sweep_values(command.overrides)]

    from pipeline.batch import Batch

    batch = Batch(debug)
    experiment = _experiment(command, configs[0], found.skipped)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    side_by_side = _runs_side_by_side(command.overrides)
    with (
        _launcher_folder(experiment, side_by_side) as scratch,
        hydra.initialize_config_module("conf", job_name="photodrag", version_base="1.3"),
        _tables_kept(experiment, batch),
    ):
        engine = GlobalHydra.instance().hydra
        assert engine is not None
        overrides = [f"hydra.sweep.dir={quote_path(scratch)}", *command.overrides]
        try:
            job = partial(_sweep_job, stamp, debug, side_by_side, batch, found.photos, tuple(experiment.swept))
            batches = engine.multirun("config", job, overrides, with_log_configuration=False)
        except HydraException as error:
            raise UsageError(f"{' '.join(command.overrides)} cannot be swept: {one_line(error)}") from error
    jobs = [job.return_value for batch in batches or () for job in batch]
    _finish_experiment(experiment, [result for _, results in jobs for result in results])
    failed = [code != EXIT_DONE for code, _ in jobs]
    print(f"{len(failed)} jobs, {sum(failed)} failed")
    return EXIT_FAILED if any(failed) else EXIT_DONE


def _runs_side_by_side(overrides: Sequence[str]) -> bool:
    """Whether a launcher other than Hydra's own is chosen, which runs the jobs of a sweep in processes of their own."""
    chosen = [item.value() for item in parse_overrides(overrides) if item.key_or_group == "hydra/launcher"]
    return bool(chosen) and chosen[-1] != "basic"


@contextlib.contextmanager
def _launcher_folder(experiment: Experiment, side_by_side: bool) -> Iterator[str]:
    """The folder that Hydra insists on for itself.

    Its own launcher leaves nothing there that anyone needs. Others keep the logs and the answers of their jobs there,
    which jobs on other machines write: it then lies in the experiment's folder, and stays.
    """
    if side_by_side:
        from pipeline.artifacts import ensure_folder

        yield str(ensure_folder(experiment.folder / "launcher"))
        return
    with tempfile.TemporaryDirectory(prefix="photodrag-sweep-") as scratch:
        yield scratch


def _sweep_values(overrides: Sequence[str]) -> Iterator[list[str]]:
    """Override lists that show every swept value once, the others at their first; Hydra multiplies them out itself.

    Sweeps that cannot be listed (an interval for an optimiser) are left to the sweeper.
    """
    choices: list[list[str]] = []
    for item in parse_overrides(overrides):
        if not item.is_sweep_override():
            assert item.input_line is not None
            choices.append([item.input_line])
        elif item.is_discrete_sweep():
            choices.append([f"{item.get_key_element()}={value}" for value in item.sweep_string_iterator()])
    first = [values[0] for values in choices]
    yield first
    for position, values in enumerate(choices):
        for value in values[1:]:
            yield [*first[:position], value, *first[position + 1 :]]


def _sweep_job(
    stamp: str,
    debug: bool,
    side_by_side: bool,
    batch: Batch,
    photos: Sequence[Path],
    swept: Sequence[str],
    cfg: DictConfig,
) -> tuple[int, list[FaceResult]]:
    """One job of a sweep, called by Hydra's launcher; its failure is told and leaves the other jobs running."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from pipeline.table import JobValues

    hydra_cfg = HydraConfig.get()
    overrides = OmegaConf.to_container(hydra_cfg.overrides.task, resolve=False)
    assert isinstance(overrides, list)
    job = JobInfo(stamp, int(hydra_cfg.job.num), tuple(str(text) for text in overrides), side_by_side)
    settings = tuple(text for text in job.overrides if not text.startswith("photo="))
    print(f"job {job.number}: {' '.join(settings)}")
    pairs = [split_override(text)[1:] for text in settings]
    values = JobValues(job.number, tuple(effective(settings)), {key: value for key, value in pairs if key in swept})
    before = len(batch.results)

    def run_job() -> int:
        config = load(cfg)
        if photos:
            results = batch.run_photos(config, photos, job, values)
            return EXIT_FAILED if any(result.failed for result in results) else EXIT_DONE
        check_runnable(config)
        outcome = batch.run_one(config, job, values)
        _print_outcome(outcome)
        return EXIT_FAILED if outcome.failures else EXIT_DONE

    return _guarded(run_job, debug), batch.results[before:]


def _experiment(command: Command, config: RunConfig, skipped: Sequence[str]) -> Experiment:
    """What the folder of this command's experiment is called and says; the same command gives the same folder."""
    from pipeline.experiment import Experiment

    overrides = [text for text in command.overrides if split_override(text)[1] != "photo"]
    swept = [item.key_or_group for item in parse_overrides(overrides) if item.is_sweep_override()]
    given = command.photos or (config.photo or config.from_run or "generated",)
    folder = Path(config.out).absolute() / experiment_name(given, overrides)
    return Experiment(folder, given, overrides, swept, skipped)


@contextlib.contextmanager
def _tables_kept(experiment: Experiment, batch: Batch) -> Iterator[None]:
    """Write the table of what is finished when the block ends before all is; the runs themselves are kept anyway."""
    from pipeline.experiment import write_partial_tables

    try:
        yield
    except BaseException:
        if batch.results:
            with contextlib.suppress(PhotodragError):
                write_partial_tables(experiment, batch.results)
        raise


def _finish_experiment(experiment: Experiment, results: Sequence[FaceResult]) -> None:
    """Write an experiment's folder and say where it is."""
    from pipeline.experiment import RESULTS_CSV, write_experiment

    report = write_experiment(experiment, results)
    failed = sum(result.failed for result in results)
    skipped = f", {len(experiment.skipped)} other files skipped" if experiment.skipped else ""
    print(f"{len(results)} results, {failed} failed{skipped}")
    print(f"table:  {experiment.folder / RESULTS_CSV}")
    print(f"report: {report}")
    print(f"folder: {experiment.folder}")
