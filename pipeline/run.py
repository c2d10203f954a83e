"""A whole run: prepares what the stages need, chains them, writes manifest, products and report."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from data.errors import ModelError, OutputError, UsageError
from data.landmarks import DESCRIPTOR_MODEL, model_path
from data.photo import Photo, encode_photo, format_note, read_mask, read_photo
from pipeline.artifacts import StageStore
from pipeline.blending import try_marks
from pipeline.chain import Chain
from pipeline.counting import PAINTED
from pipeline.delivery import Deliveries, Destination, plan
from pipeline.engine import Engine, MissingStageError, StageRecord
from pipeline.folders import photo_folder
from pipeline.leaving import leave
from pipeline.locks import run_lock
from pipeline.manifest import Manifest, read_manifest, store_of, versions
from pipeline.models import LoadedGenerator, Models, PerceptualChoice, choose_perceptual, pick_device, set_up_arithmetic
from pipeline.outputs import MEASURE
from pipeline.posing import landmarks_in
from pipeline.products import publish, write_report
from pipeline.progress import Console
from pipeline.recorded import made_with
from pipeline.schema import CHAIN, GeneratorConfig, JobInfo, RunConfig, check_runnable, missing_mask
from pipeline.stages import FORMATS
from pipeline.together import Company
from pipeline.work import Setup, computed_stages

TOLD = (
    *("psnr_face_256_tuned_db", "ssim_face_256_tuned", "landmarks_tuned_percent"),
    *("editability_success_tuned", "editability_moved_tuned"),
)
"""Of the many figures of the measure stage, those that its line shows; the report has them all."""


@dataclass(frozen=True, eq=False, slots=True)
class RunOutcome:
    """What a run left behind: its folder, the main results, the report, and one sentence for each face that failed.

    manifest: what `manifest.json` in the folder says. saved: the finished photo where `save` put it.
    """

    run_dir: Path
    results: list[Path]
    report: Path | None
    failures: list[str]
    manifest: Mapping[str, Any] = field(default_factory=dict)
    saved: Path | None = None


def run(
    config: RunConfig,
    job: JobInfo | None = None,
    models: Models | None = None,
    console: Console | None = None,
    company: Company | None = None,
    deliveries: Deliveries | None = None,
) -> RunOutcome:
    """Run the requested stages, reusing finished ones and continuing interrupted ones.

    job: which job of a sweep this is; its products then lie in a folder of their own inside the run folder, while the
    stages are shared. models: networks that earlier runs have read. console: where to print, standard output when left
    out; the first line printed says which perceptual distance is used. company: what several photos of one call have
    computed together; deliveries: what that call reads and has saved. Raises PhotodragError with one sentence;
    KeyboardInterrupt passes through, and the same call then continues from the last checkpoint.
    """
    check_runnable(config)
    set_up_arithmetic(config)
    console = Console(config.progress) if console is None else console
    earlier = None if config.from_run is None else read_manifest(Path(config.from_run))
    perceptual = perceptual_of(config)
    console.say(perceptual_line(perceptual, earlier))
    setup = open_setup(config, earlier, perceptual, Models() if models is None else models)
    note = setup.photo and "blend" in config.stages and format_note(setup.photo, FORMATS[config.blend.format])
    if note:
        console.say(note)
    store = StageStore(run_folder(setup))
    folder = store.root if job is None else store.root / "sweep" / job.sweep / str(job.number)
    outlet = _outlet(setup, store.root, Deliveries() if deliveries is None else deliveries)
    with run_lock(store.root, math.inf if job is not None and job.side_by_side else 0.0):
        store.remove_leftovers()
        manifest = Manifest(folder, store.root, _facts(setup, job))
        if earlier is not None:
            manifest.inherit(earlier, computed_stages(config))
        with _recorded(manifest, setup):
            return _execute(setup, store, manifest, console, Company() if company is None else company, outlet)


Outlet = tuple[Destination | None, Deliveries]


def _outlet(setup: Setup, run_folder: Path, deliveries: Deliveries) -> Outlet:
    """Where the result leaves for, refused now rather than after minutes of work."""
    config, photo = setup.config, setup.photo
    if photo is None or photo.path is None or config.stages[-1] != "blend":
        return None, deliveries
    return plan(config, photo.path, FORMATS[config.blend.format] or photo.format, run_folder, deliveries), deliveries


def _execute(
    setup: Setup, store: StageStore, manifest: Manifest, console: Console, company: Company, outlet: Outlet
) -> RunOutcome:
    config = setup.config

    def on_record(record: StageRecord) -> None:
        manifest.add_stage(record)
        console.say(_stage_line(record))

    engine = Engine(store, console, computed_stages(config), config.resume, on_record, company.fresh)
    faces, blended = Chain(setup, engine, manifest, company).run()
    results = publish(manifest, faces, blended, outlet[1].inputs)
    saved = None if blended is None else leave(manifest, faces, blended, config, *outlet, company, console)
    failures = [face.failure for face in faces if face.failure is not None]
    ending = "failed" if failures else "done", " ".join(failures) or None
    report = write_report(manifest, faces, blended, *ending)
    manifest.finish(*ending)
    return RunOutcome(manifest.folder, results, report, failures, manifest.data, saved)


def _stage_line(record: StageRecord) -> str:
    """What is printed when a stage is there: how long it took, why and when it stopped, what was measured."""
    name = record.stage if record.face is None else f"{record.stage}, face {record.face + 1}"
    if record.reused:
        return f"{name}: reused"
    parts = [f"{record.seconds:.1f} s"]
    if record.facts.get("stop_reason"):
        parts.append(f"{record.facts['stop_reason']} after {record.facts['steps']} steps")
    if rollbacks := record.facts.get("metrics", {}).get("rollbacks"):
        parts.append(f"taken back {rollbacks:.0f} times where the loss was not a number")
    measured = record.facts.get("measured", {})
    names = measured if record.stage != MEASURE.name else TOLD
    parts += [f"{name} {measured[name]:.2f}" for name in names if measured.get(name) is not None]
    return f"{name}: {', '.join(parts)}"


@contextlib.contextmanager
def _recorded(manifest: Manifest, setup: Setup) -> Iterator[None]:
    """Write into the manifest how the run ended when it ends in an error."""
    try:
        yield
    except MissingStageError as error:
        sentence = _missing_sentence(error.stage, setup)
        manifest.finish("failed", sentence)
        raise UsageError(sentence) from error
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        with contextlib.suppress(OutputError):
            manifest.finish(status, str(error) or type(error).__name__)
        raise


def _missing_sentence(stage: str, setup: Setup) -> str:
    config = setup.config
    if stage not in CHAIN or setup.sampled:
        return (
            f"{config.from_run} is a run of a generated picture and has no finished {stage} stage: make a new picture "
            "with `photodrag run 'stages=[sample,edit]'`."
        )
    wanted = ",".join(CHAIN[CHAIN.index(stage) : CHAIN.index(config.stages[-1]) + 1])
    return (
        f"The run {config.from_run} has no finished {stage} stage, which stages=[{','.join(config.stages)}] needs: "
        f"make it with `photodrag run from={shlex.quote(str(config.from_run))} 'stages=[{wanted}]'`."
    )


def perceptual_of(config: RunConfig) -> PerceptualChoice | None:
    """The perceptual distance, None when no stage of this run compares pictures."""
    return choose_perceptual(config.perceptual) if {"invert", "tune"} & set(config.stages) else None


def perceptual_line(choice: PerceptualChoice | None, earlier: Mapping[str, Any] | None = None) -> str:
    """Which perceptual distance a run uses, as it is printed."""
    if choice is not None:
        return f"perceptual: {choice.name} ({choice.reason})"
    if earlier is not None and earlier["perceptual"]:
        return f"perceptual: {earlier['perceptual']['name']} (of the run that is continued)"
    return "perceptual: not used by these stages"


def open_setup(
    config: RunConfig, earlier: Mapping[str, Any] | None, perceptual: PerceptualChoice | None, models: Models
) -> Setup:
    """Open everything that the run needs, so that what is missing or wrong stops it before it works or writes."""
    device = pick_device(config.device)
    if earlier is not None:
        _check_origin(config, earlier)
    photo = _read_photo(config, earlier)
    if photo is not None:
        _try_format(config, photo)
        photo_sha256 = photo.sha256
    else:
        photo_sha256 = "" if earlier is None or not earlier["photo"] else str(earlier["photo"]["sha256"])
    _try_masks(config, photo, earlier)
    if "edit" in config.stages and config.edit.like is not None:
        landmarks_in(config.edit.like)
    _check_identity(config)
    generator = _read_generator(config, earlier, device, models)
    return Setup(config, device, generator, perceptual, photo, photo_sha256, earlier, models)


def _check_origin(config: RunConfig, earlier: Mapping[str, Any]) -> None:
    if config.stages[0] == "sample":
        raise UsageError("stages begins with sample, which makes a new picture, but from is given: leave out from.")
    if "sample" in earlier["keys"] and config.stages != ["edit"]:
        raise UsageError(
            f"from={config.from_run} is a run of a generated picture, which has no photo: only stages=[edit] can "
            f"continue it, but stages is [{','.join(config.stages)}]."
        )


def _read_photo(config: RunConfig, earlier: Mapping[str, Any] | None) -> Photo | None:
    """The photo when a stage needs its pixels; of a continued run the one it was made from."""
    if not {"align", "blend"} & set(config.stages):
        return None
    path = config.photo if config.photo is not None or earlier is None else str(earlier["photo"]["path"])
    assert path is not None
    if earlier is not None and config.photo is None and not Path(path).is_file():
        raise UsageError(
            f"The photo {path} of the run {config.from_run} is not there any more: say where it is with photo=FILE."
        )
    photo = read_photo(path)
    if earlier is not None and photo.sha256 != earlier["photo"]["sha256"]:
        raise UsageError(
            f"{path} is not the photo that the run {config.from_run} was made from: leave out from= to start a run "
            "of its own."
        )
    return photo


def _try_masks(config: RunConfig, photo: Photo | None, earlier: Mapping[str, Any] | None) -> None:
    """Refuse masks that are missing or of another size now, not after minutes of work."""
    if photo is not None:
        shape_hw = photo.shape_hw
    elif earlier is not None and earlier["photo"]:
        shape_hw = int(earlier["photo"]["height"]), int(earlier["photo"]["width"])
    else:
        return
    masks = {"edit": config.edit.mask, "blend": config.blend.mask}
    for stage, mask in masks.items():
        if stage in config.stages and mask is not None:
            read_mask(mask, shape_hw)
    counted = config.invert.mask_path
    if "invert" in config.stages and counted is not None:
        if not Path(counted).is_file():
            raise missing_mask(counted)
        read_mask(counted, shape_hw, PAINTED)


def _check_identity(config: RunConfig) -> None:
    """Refuse an identity term without dlib's face network before anything is computed."""
    weights = {"invert": config.invert.weights.identity, "tune": config.tune.weights.identity}
    for stage, weight in weights.items():
        if weight and stage in config.stages:
            try:
                model_path(DESCRIPTOR_MODEL)
            except ModelError as error:
                raise ModelError(f"{stage}.weights.identity={weight:g} needs dlib's face network: {error}") from error


def _try_format(config: RunConfig, photo: Photo) -> None:
    """Refuse a format that cannot hold the photo now, not after minutes of work."""
    if "blend" in config.stages:
        try_marks(photo, config.blend)
        corner = replace(
            photo,
            pixels=photo.pixels[:8, :8],
            alpha=None if photo.alpha is None else photo.alpha[:8, :8],
            path=None,
        )
        encode_photo(corner, edited=True, format=FORMATS[config.blend.format], quality=config.blend.quality)


def _read_generator(
    config: RunConfig, earlier: Mapping[str, Any] | None, device: torch.device, models: Models
) -> LoadedGenerator:
    """The configured generator; of a continued run the one it was made with, which must not have changed."""
    if earlier is None or "invert" in config.stages:
        return models.generator(config.generator, device)
    wanted = earlier["generator"]
    candidates = [config.generator, GeneratorConfig(name="file", path=str(wanted["path"]))]
    for candidate in candidates:
        with contextlib.suppress(ModelError):
            generator = models.generator(candidate, device)
            if generator.sha256 == wanted["sha256"]:
                return generator
    raise ModelError(
        f"The generator of the run {config.from_run} ({wanted['path']}, sha256 {wanted['sha256'][:16]}) is not there "
        "any more: give its file with generator.path=FILE, or run the photo again without from=."
    )


def run_folder(setup: Setup) -> Path:
    """Where the stages of a run lie, whether the folder exists or not."""
    config = setup.config
    if setup.earlier is not None:
        return store_of(Path(str(config.from_run)), setup.earlier)
    if setup.sampled:
        return Path(config.out).absolute() / f"sample_{config.sample.seed}_{setup.generator.sha256[:8]}"
    assert setup.photo is not None
    assert setup.photo.path is not None
    return photo_folder(config.out, setup.photo.path.stem, setup.photo_sha256)


def _facts(setup: Setup, job: JobInfo | None) -> dict[str, Any]:
    """What the manifest says before any stage has run."""
    config, generator = setup.config, setup.generator
    photo = _photo_facts(setup)
    return {
        "title": photo["name"] if photo else f"Generated picture, seed {config.sample.seed}",
        "from_run": config.from_run,
        "job": None if job is None else {"sweep": job.sweep, "number": job.number, "overrides": list(job.overrides)},
        "config": dataclasses.asdict(config),
        "seeds": {"seed": config.seed, "sample": config.sample.seed},
        "versions": versions(),
        "device": str(setup.device),
        "threads": torch.get_num_threads(),
        "photo": photo,
        "generator": {
            "path": str(generator.path),
            "sha256": generator.sha256,
            "resolution": generator.module.resolution,
        },
        "hashes": {"photo": setup.photo_sha256 or None, "generator": generator.sha256},
        "perceptual": _perceptual_facts(setup),
        "recipe": made_with(setup),
    }


def _perceptual_facts(setup: Setup) -> dict[str, str] | None:
    if setup.perceptual is not None:
        return {"name": setup.perceptual.name, "reason": setup.perceptual.reason}
    return None if setup.earlier is None else setup.earlier["perceptual"]


def _photo_facts(setup: Setup) -> dict[str, Any] | None:
    photo = setup.photo
    if photo is None:
        return None if setup.earlier is None else setup.earlier["photo"]
    height, width = photo.shape_hw
    return {
        "path": str(photo.path),
        "name": None if photo.path is None else photo.path.name,
        "width": width,
        "height": height,
        "format": photo.format,
        "mode": photo.mode,
        "bits": 8 if photo.max_value == 255 else 16,
        "sha256": photo.sha256,
    }
