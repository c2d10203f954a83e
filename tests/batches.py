"""Batches for the tests: an executor in this process whose work is made up or real, and the command around it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline import cli
from pipeline.executors import table
from pipeline.executors.protocol import DONE, FAILED, BatchJob, ItemOutcome, WorkItem
from pipeline.folders import photo_folder
from pipeline.recipe import recipe_json

Work = Callable[[BatchJob, WorkItem], ItemOutcome]


def recipe_for(job: BatchJob, item: WorkItem, result: str) -> dict[str, Any]:
    """As much of a recipe as a batch reads."""
    name = Path(item.photo).name
    return {"photo": {"name": name, "sha256": item.sha256}, "result": {"name": result, "sha256": item.sha256[::-1]}}


def made_up(job: BatchJob, item: WorkItem) -> ItemOutcome:
    """A run folder with a result that is the photo itself and an `x`; photos named bad* fail at their alignment."""
    if Path(item.photo).name.startswith("bad"):
        return ItemOutcome(item, FAILED, stage="align", error=f"{item.name} has no face.", kind="NoFaceError")
    photo = Path(item.photo)
    run = photo_folder(str(job.config["out"]), photo.stem, item.sha256)
    run.mkdir(parents=True, exist_ok=True)
    suffix = {".jpeg": ".jpg", ".jpe": ".jpg"}.get(photo.suffix, photo.suffix)
    name = f"{photo.stem}_edited{suffix}"
    (run / name).write_bytes(photo.read_bytes() + b"x")
    (run / f"{name}.photodrag.json").write_bytes(recipe_json(recipe_for(job, item, name)))
    row = {"photo": item.name, "sha256": item.sha256, "face": 1, "status": "done", "psnr_tuned_db": 20.0, "error": None}
    return ItemOutcome(
        item,
        DONE,
        rows=(row,),
        run=str(run),
        result=str(run / name),
        seconds=0.1,
        pictures={"before": b"B", "after": b"A"},
    )


class Inline:
    """An executor that works in this process; `seen` are the items that it was given."""

    def __init__(self, work: Work = made_up) -> None:
        self.work = work
        self.seen: list[WorkItem] = []

    def run(self, job: BatchJob, items: Iterable[WorkItem]) -> Generator[ItemOutcome, None, None]:
        """As `Executor.run`."""
        for item in items:
            self.seen.append(item)
            yield self.work(job, item)

    def names(self) -> list[str]:
        """The names of the items since the last call of this."""
        seen, self.seen = self.seen, []
        return [item.name for item in seen]


def use(monkeypatch: pytest.MonkeyPatch, executor: Any) -> Any:
    """Let `photodrag batch` use this executor."""
    monkeypatch.setattr(table, "EXECUTORS", {"local": lambda _: executor})
    return executor


def put_photos(folder: Path, *names: str) -> None:
    """Small files of different content under these names; they are no photos, which only real work would notice."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"photo {name}".encode("utf-8", "surrogateescape"))


def batch(out: Path, *words: str | Path, progress: bool = False) -> int:
    """Run `photodrag batch` in this process; the exit code."""
    settings = ["perceptual=face", f"out={out}", f"progress={str(progress).lower()}"]
    given = [str(word) for word in words]
    asked = [] if any(word.startswith(("edit", "stages", "+")) for word in given) else ["edit=smile"]
    return cli.main(["batch", *given, *asked, *settings])


def batch_folder(out: Path) -> Path:
    """The only batch's folder of an output folder."""
    (folder,) = out.glob("batch_*")
    return folder


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "batch.json").read_text(encoding="utf-8"))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def errors(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "errors.jsonl").read_text(encoding="utf-8").splitlines()]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its path, with its content."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def saved(folder: Path) -> list[str]:
    """The results in a folder, each of which has its recipe."""
    names = set(tree(folder))
    results = sorted(name for name in names if not name.endswith(".photodrag.json"))
    assert {f"{name}.photodrag.json" for name in results} == names - set(results)
    return results


def small_photos(folder: Path, sample: Path, names: Mapping[str, Callable[[np.ndarray], np.ndarray]]) -> None:
    """The sample photo at 192 px under several names, each changed a little."""
    picture = cv2.resize(cv2.imread(str(sample)), (192, 192), interpolation=cv2.INTER_AREA)
    for name, change in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / name), change(picture))


def short_batch(photos: Path, generator: Path, out: Path) -> list[str]:
    """The words of a batch of short runs of every stage, on crops that need no face found."""
    return [
        *("batch", str(photos), f"out={out}", f"generator.path={generator}", "threads=1", "progress=false"),
        *("align=center", "invert.steps=6", "invert.start_samples=4", "invert.w_stats_samples=50", "tune.steps=6"),
        *("invert.weights.perceptual=0.0", "tune.weights.perceptual=0.0", "measure.metrics=false", "edit.steps=6"),
        *("edit.points=[[70.0,80.0,80.0,80.0]]", "executor.workers=1"),
    ]
