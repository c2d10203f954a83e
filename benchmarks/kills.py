"""Runs and batches killed by kill -9 at random moments: what is visible then, and whether the next call ends the same.

    python benchmarks/kills.py [--moments 50] [--batch-moments 12] [--seed 0] [--json FILE]

One run of every stage (the embedded generator, few steps) is left alone and tells how long it takes and what it makes.
Then the same command is started in an empty folder and killed, by turns at a moment drawn uniformly over the run's
length and at one where a file is being written (its temporary name is there). Every file that is visible then must be
whole; the same command is given again, and latents, weight changes, pictures and the photo must be those of the first
run, to the bit. Of a batch (three photos, two workers) by turns all processes are killed, the parent alone, whose
workers must then end by themselves, and one worker alone, which the batch itself must make good.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.batch_rate import sample_photos
from benchmarks.common import tell
from data.files import file_sha256
from pipeline.artifacts import STAGE_FILE, Checkpoints, DamagedFilesError, StageStore, read_json, read_tensors

ROOT = Path(__file__).resolve().parents[1]
PHOTO = ROOT / "data" / "samples" / "astronaut.png"
SETTINGS = (
    *("stages=[align,invert,tune,edit,blend]", "edit.points=[[220,130,235,130]]", "edit.steps=8", "edit.gif=true"),
    *("invert.steps=15", "invert.checkpoint_every=3", "invert.frame_every=5", "tune.steps=15"),
    *("tune.checkpoint_every=3", "threads=1", "progress=false"),
)
BATCH_PHOTOS = 3
COUNTS = ("kill_moments", "kill_equal", "kill_half_written")
MOMENTS, QUICK_MOMENTS = 50, 6
BATCH_MOMENTS, QUICK_BATCH_MOMENTS = 12, 3
POLL_S = 0.0005
PATIENCE_S = 600.0
ORPHANS_S = 60.0
"""How long workers may take to notice that their parent is gone."""
_STAGE = re.compile(r"[0-9a-f]{16}(\.partial)?")
VOLATILE = ("manifest.json", "report.html", STAGE_FILE)
"""Files that hold times of day or seconds, and so differ from run to run."""


def is_hidden(path: Path) -> bool:
    """Whether a file belongs to nobody yet: it has, or lies in a folder that has, a name that begins with a dot."""
    return any(part.startswith(".") for part in path.parts)


def visible_files(root: Path) -> Iterator[Path]:
    """Every file below a folder that a person or another program would take for one of the run's."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not is_hidden(path.relative_to(root)):
            yield path


def fingerprint(root: Path) -> dict[str, str]:
    """SHA-256 of each visible file by its path in the folder, but for those that hold times: manifests, reports, and a
    batch's own tables and ledger."""
    found = {path.relative_to(root): path for path in visible_files(root)}
    return {
        name.as_posix(): file_sha256(path)
        for name, path in found.items()
        if name.name not in VOLATILE and not any(p == "manifests" or p.startswith("batch_") for p in name.parts)
    }


def faults(root: Path) -> list[str]:
    """What is half-written among the visible files of an output folder: one sentence for each."""
    found = []
    for path in visible_files(root):
        try:
            _read_whole(path)
        except Exception as error:  # noqa: BLE001  whatever a reader says of a file, it is not whole
            found.append(f"{path.relative_to(root)}: {error!r}")
    for folder in sorted({path.parent for path in visible_files(root) if _STAGE.fullmatch(path.parent.name)}):
        found += _stage_faults(folder)
    return found


def _read_whole(path: Path) -> None:
    """Read a file to its end; raises whatever its reader raises when it is cut off."""
    match path.suffix:
        case ".json":
            read_json(path)
        case ".safetensors":
            read_tensors(path)
        case ".npy":
            np.load(path, allow_pickle=False)
        case ".pt":
            torch.load(path, weights_only=True)
        case ".png" | ".jpg" | ".gif":
            with Image.open(path) as picture:
                for frame in range(getattr(picture, "n_frames", 1)):
                    picture.seek(frame)
                    picture.load()
        case ".mp4":
            _read_video(path)
        case ".html":
            if not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
                raise ValueError("it has no end")
        case ".csv" | ".jsonl" | ".txt":
            path.read_text(encoding="utf-8-sig")
        case _:
            raise ValueError("a file of an unknown kind")


def _read_video(path: Path) -> None:
    video = cv2.VideoCapture(str(path))
    count, frames = int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0
    while video.read()[0]:
        frames += 1
    video.release()
    if not frames or frames != count:
        raise ValueError(f"{frames} of {count} frames")


def _stage_faults(folder: Path) -> list[str]:
    """A stage's folder must be finished; that of an optimisation in progress must have no state or a whole one."""
    store, stage = folder.parents[1], folder.parent.name
    try:
        if folder.suffix == ".partial":
            if (folder / "state.json").is_file():
                Checkpoints(folder, read_json(folder / "state.json")["key"]).load()
        elif StageStore(store).finished(stage, read_json(folder / STAGE_FILE)["key"]) is None:
            return [f"{folder} is not finished"]
    except (DamagedFilesError, KeyError) as error:
        return [f"{folder}: {error!r}"]
    return []


@dataclass(frozen=True, slots=True)
class Kill:
    """When a run was killed: after `seconds`, or (seconds None) when the `write`-th temporary name appeared.

    whom: `all` processes, of a batch also the `parent` alone or one `worker`.
    """

    seconds: float | None
    write: int
    whom: str = "all"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one kill left: the stage in which it fell, half-written files, and files that the next call made otherwise.

    fell: False when the run had ended before its moment came, so that nothing was tried.
    """

    kill: Kill
    fell: bool
    stage: str
    faults: tuple[str, ...]
    different: tuple[str, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Course:
    """A command that writes into an output folder, and what it makes when it is left alone."""

    words: tuple[str, ...]
    seconds: float
    writes: int
    made: Mapping[str, str]


def command(out: Path, *words: str) -> list[str]:
    """The command line of one run, whose results lie below `out`."""
    saved = out / "saved"
    return [sys.executable, "-m", "pipeline", *words, f"out={out / 'runs'}", f"save={saved}/", "on_exists=overwrite"]


def start(out: Path, words: Sequence[str]) -> subprocess.Popen[bytes]:
    """The command in a process group of its own, so that all of it can be killed at once."""
    out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.DEVNULL
    return subprocess.Popen(
        command(out, *words), cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
    )


def temporary_names(out: Path) -> set[str]:
    """Names of files and folders that are being written at this moment."""
    found = set()
    for folder, folders, files in os.walk(out):
        found |= {f"{folder}/{name}" for name in (*folders, *files) if name.startswith((".tmp-", ".photodrag-"))}
    return found


def uninterrupted(out: Path, words: Sequence[str]) -> Course:
    """The command left alone: how long it takes, how many writes are seen, and what it makes."""
    began, seen, process = time.monotonic(), set[str](), start(out, words)
    while process.poll() is None:
        seen |= temporary_names(out)
        time.sleep(POLL_S)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command(out, *words))} ended with {process.returncode}")
    return Course(tuple(words), time.monotonic() - began, len(seen), fingerprint(out))


def kill_at(out: Path, course: Course, kill: Kill) -> bool:
    """Start the command and kill it when its moment has come; False when it had ended before."""
    began, seen, process = time.monotonic(), set[str](), start(out, course.words)
    while process.poll() is None:
        if kill.seconds is None:
            seen |= temporary_names(out)
        due = len(seen) >= kill.write if kill.seconds is None else time.monotonic() - began >= kill.seconds
        if due and _killed(process, kill.whom):
            return True
        time.sleep(POLL_S)
    return False


def _killed(process: subprocess.Popen[bytes], whom: str) -> bool:
    """Kill the process and all of its group, or only it and see its workers end, or one worker and see it go on.

    False when there is no worker yet. Raises RuntimeError when what is left does not end as it should.
    """
    if whom == "worker":
        workers = _workers(process.pid)
        if not workers:
            return False
        os.kill(workers[0], signal.SIGKILL)
        if process.wait(timeout=PATIENCE_S):
            raise RuntimeError(f"a batch of which a worker was killed ended with {process.returncode}")
        return True
    if whom == "all":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    deadline = time.monotonic() + ORPHANS_S
    while _group_lives(process.pid):
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            raise RuntimeError(f"processes lived on for {ORPHANS_S:.0f} s after their parent was killed")
        time.sleep(0.05)
    return True


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _workers(parent: int) -> list[int]:
    """The worker processes of a batch (Linux: from /proc)."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                words = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if int(fields[1]) == parent and b"spawn_main" in words:
                found.append(int(folder.name))
    return sorted(found)


def try_kill(out: Path, course: Course, kill: Kill) -> Outcome:
    """Kill the command at one moment in an empty folder, look at what it left, and give the same command again."""
    try:
        if not kill_at(out, course, kill):
            return Outcome(kill, False, "ended", (), ())
    except RuntimeError as error:  # what was left alive did not do what it should
        return Outcome(kill, True, _stage_reached(out), (), (str(error),))
    stage, half = _stage_reached(out), tuple(faults(out))
    again = start(out, course.words)
    code = again.wait(timeout=PATIENCE_S)
    made = fingerprint(out)
    names = {name for name in {*made, *course.made} if made.get(name) != course.made.get(name)}
    left = {f"left over: {name}" for name in temporary_names(out)}
    failed = {f"the next call ended with {code}"} if code else set[str]()
    return Outcome(kill, True, stage, half, tuple(sorted(names | left | failed)))


def _stage_reached(out: Path) -> str:
    """The last stage that the killed run had recorded as finished, `start` before any."""
    manifests = sorted((out / "runs").glob("*/manifest.json"))
    stages = [entry["stage"] for path in manifests for entry in read_json(path)["stages"]]
    return str(stages[-1]) if stages else "start"


def draw(course: Course, count: int, seed: int) -> Iterator[Kill]:
    """Moments without end, by turns uniform over the run's length and aimed at a write; `count` spreads nothing, it
    only says how many are expected to be taken."""
    rng = random.Random(seed * 1_000_003 + count)
    while True:
        yield Kill(rng.uniform(0.0, course.seconds), 0)
        yield Kill(None, rng.randint(1, max(1, course.writes)))


def draw_batch(course: Course, count: int, seed: int) -> Iterator[Kill]:
    """As `draw`, for a batch: all, parent and worker by turns, uniform over its length."""
    for number, kill in enumerate(draw(course, count, seed)):
        if kill.seconds is not None:
            yield replace(kill, whom=("all", "parent", "worker")[number // 2 % 3])


def kill_runs(folder: Path, moments: int, seed: int) -> list[Outcome]:
    """`moments` kills of a run of every stage."""
    return _kill(folder / "run", [str(PHOTO), *SETTINGS], moments, seed, draw)


def kill_batches(folder: Path, moments: int, seed: int) -> list[Outcome]:
    """`moments` kills of a batch of a few photos with two workers."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    sample_photos(photos, BATCH_PHOTOS)
    words = ["batch", str(photos), *SETTINGS, "executor.workers=2"]
    return _kill(folder / "batch", words, moments, seed, draw_batch)


def _kill(
    folder: Path,
    words: Sequence[str],
    moments: int,
    seed: int,
    draw_from: Callable[[Course, int, int], Iterator[Kill]],
) -> list[Outcome]:
    course = uninterrupted(folder / "whole", words)
    print(f"uninterrupted: {course.seconds:.1f} s, {course.writes} writes seen, {len(course.made)} files", flush=True)
    found: list[Outcome] = []
    for number, kill in enumerate(draw_from(course, moments, seed)):
        if len(found) == moments:
            break
        out = folder / f"kill{number}"
        outcome = try_kill(out, course, kill)
        shutil.rmtree(out, ignore_errors=True)
        if outcome.fell:
            found.append(outcome)
            print(f"{len(found):3d}/{moments} {told(outcome)}", flush=True)
    return found


def told(outcome: Outcome) -> str:
    """One line on a kill."""
    kill = outcome.kill
    when = f"at write {kill.write}" if kill.seconds is None else f"after {kill.seconds:.2f} s"
    verdict = "equal" if not outcome.different else "DIFFERENT: " + ", ".join(outcome.different)
    half = "" if not outcome.faults else "; HALF-WRITTEN: " + ", ".join(outcome.faults)
    return f"{kill.whom} killed {when}, behind {outcome.stage}: {verdict}{half}"


def batch_figures_of(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """batch_kill_moments, batch_kill_equal and batch_kill_half_written, and how many of whom were killed."""
    whom = Counter(outcome.kill.whom for outcome in outcomes)
    counts = {key: value for key, value in figures_of(outcomes).items() if key in COUNTS}
    return {
        **{f"batch_{key}": value for key, value in counts.items()},
        **{f"batch_kill_{name}": count for name, count in whom.items()},
    }


def figures_of(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """kill_moments, kill_equal (those that ended in the same bits), kill_half_written, and how many fell where."""
    reached = Counter(outcome.stage for outcome in outcomes)
    return {
        "kill_moments": len(outcomes),
        "kill_equal": sum(not outcome.different for outcome in outcomes),
        "kill_half_written": sum(bool(outcome.faults) for outcome in outcomes),
        "kill_aimed_at_writes": sum(outcome.kill.seconds is None for outcome in outcomes),
        **{f"kill_behind_{stage}": count for stage, count in reached.items()},
    }


def measure(moments: int = MOMENTS, batch_moments: int = BATCH_MOMENTS, seed: int = 0) -> dict[str, float]:
    """Kill a run of every stage and a batch at that many moments each; 0 leaves one out.

    The figures are those of `figures_of` and `batch_figures_of`.
    """
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="photodrag-kills-") as folder:
        if moments:
            figures |= figures_of(kill_runs(Path(folder), moments, seed))
        if batch_moments:
            figures |= batch_figures_of(kill_batches(Path(folder), batch_moments, seed))
    return figures


def is_right(figures: Mapping[str, float]) -> bool:
    """Whether every kill ended in equal bits, and nothing half-written was ever seen."""
    kinds = [kind for kind in ("", "batch_") if f"{kind}kill_moments" in figures]
    return all(
        figures[f"{kind}kill_equal"] == figures[f"{kind}kill_moments"] and not figures[f"{kind}kill_half_written"]
        for kind in kinds
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=MOMENTS, help="of a run of every stage; 0: none")
    parser.add_argument("--batch-moments", type=int, default=BATCH_MOMENTS, help="of a batch; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args(arguments)
    figures = measure(options.moments, options.batch_moments, options.seed)
    tell(figures, options.json)
    return 0 if is_right(figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
