"""Full and read-only disks, too little memory, Ctrl-C at any moment, clocks that jump: nothing is half-written."""

from __future__ import annotations

import datetime as real_datetime
import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from benchmarks.kills import faults, fingerprint, temporary_names
from data.errors import MemoryShortError, OutputError, UsageError
from pipeline import manifest, products, stages
from pipeline.bars import steady_bar
from pipeline.errors import exit_code, sentence
from pipeline.models import Models
from pipeline.pictures import png_bytes
from pipeline.progress import Console
from pipeline.run import run
from pipeline.schema import RunConfig
from pipeline.shortage import is_shortage, naming_shortage
from tests.runs import CHAIN, manifest_of, run_dir, short_config, stage_entries
from tests.watched_changes import before_changes

resource = pytest.importorskip("resource", reason="limits of a process are set on Unix")
ROOT = Path(__file__).resolve().parents[1]
Go = Callable[..., Any]


@pytest.fixture(scope="module")
def models() -> Models:
    return Models()


@pytest.fixture
def go(generator: Path, models: Models, monkeypatch: pytest.MonkeyPatch) -> Go:
    """go(out) runs every stage on a tiny generator into `out`, without the chart, which takes longer than the rest."""
    chart = png_bytes(np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr(products, "run_curves", lambda _: chart)

    def start(out: Path, **changes: Any) -> Any:
        return run(small(generator, out, **changes), models=models, console=Console(progress=False, quiet=True))

    return start


def ending(go: Go, out: Path) -> BaseException | None:
    """What ends a run before its end, None when it is done."""
    try:
        go(out)
    except (OutputError, KeyboardInterrupt) as error:
        return error
    return None


def small(generator: Path, out: Path, **changes: Any) -> RunConfig:
    config = short_config(generator, out, **changes)
    return replace(
        config,
        invert=replace(config.invert, steps=4),
        tune=replace(config.tune, steps=4),
        edit=replace(config.edit, steps=3),
    )


@pytest.fixture
def expected(go: Go, tmp_path: Path) -> dict[str, str]:
    """What a run that nothing disturbs makes."""
    go(tmp_path / "undisturbed")
    return fingerprint(tmp_path / "undisturbed")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes: each write that would do so fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_every_writer_that_the_disk_refuses_leaves_nothing_half_written(
    go: Go, tmp_path: Path, expected: dict[str, str]
) -> None:
    out, refused, size = tmp_path / "out", set[str](), 8
    for _ in range(60):
        with largest_file(size):
            error = ending(go, out)
        if error is None:
            break
        told = str(error)
        assert told.startswith("Cannot write") and "File too large" in told and "\n" not in told
        refused.add(Path(told.split()[2]).name)
        assert faults(out) == [] and temporary_names(out) == set()
        size = max(size + 400, int(size * 1.35))
    else:
        pytest.fail("the run never ended")
    assert fingerprint(out) == expected
    assert len(refused) >= 6 and {"manifest.json", "result.png"} <= refused, refused


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """disk(options) mounts, or mounts again, a small disk of its own; only where this process may."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        again = "remount," if os.path.ismount(folder) else ""
        words = ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(folder)]
        if subprocess.run(words, capture_output=True, check=False).returncode:
            pytest.skip("this process may not mount a disk")
        return folder

    if sys.platform != "linux" or shutil.which("mount") is None:
        pytest.skip("disks are mounted on Linux")
    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full_keeps_what_is_finished(
    go: Go, disk: Callable[[str], Path], expected: dict[str, str]
) -> None:
    finished = [set[str]()]
    for kilobytes in itertools.count(40, 250):
        out = disk(f"size={kilobytes}k")
        error = ending(go, out / "out")
        if error is None:
            break
        assert str(error).startswith("No space is left on the disk of ")
        assert "give the same command again" in str(error)
        assert faults(out) == []
        finished.append({path.parent.parent.name for path in (out / "out").glob("*/*/*/stage.json")})
        assert finished[-1] >= finished[-2]  # what is finished stays
    assert fingerprint(out / "out") == expected
    assert temporary_names(out) == set()
    assert len(finished) > 5 and {"align", "invert", "tune"} <= finished[-1]


def test_a_disk_that_may_only_be_read_is_one_sentence(go: Go, disk: Callable[[str], Path]) -> None:
    out = disk("size=20m")
    go(out / "out")
    before = fingerprint(out)
    disk("size=20m,ro")
    for folder in (out / "out", out / "new"):
        with pytest.raises(OutputError, match=r"Cannot write .* \(Read-only file system\): choose a folder .* out=DIR"):
            go(folder)
    assert fingerprint(out) == before
    with pytest.raises(UsageError, match=r"nothing may be written in .*: give another place with save="):
        go(out.parent / "elsewhere", save=f"{out / 'out'}/")


def test_too_little_memory_is_known_by_what_libraries_say() -> None:
    def refused(action: Callable[[], Any]) -> BaseException:
        with pytest.raises(Exception) as caught:  # noqa: PT011  each library has its own
            action()
        return caught.value

    huge = 1 << 44
    shortages = [
        refused(lambda: torch.empty(huge)),
        refused(lambda: np.empty(huge)),
        refused(lambda: bytearray(1 << 60)),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        cv2.error(
            "OpenCV(4.10) error: (-4:Insufficient memory) Failed to allocate 99 bytes in function 'OutOfMemoryError'"
        ),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
    ]
    for error in shortages:
        assert is_shortage(error), error
        told = sentence(error)
        assert "memory is used up: give a smaller photo" in told and told.count(". ") == 0
        assert exit_code(error) == 1
    assert "device=cpu" in sentence(shortages[3])
    for other in (
        RuntimeError("shape mismatch"),
        OSError(errno.ENOENT, "gone"),
        UsageError("out of memory"),
        ValueError(),
    ):
        assert not is_shortage(other)


@pytest.mark.parametrize(
    ("stage", "function", "mend"),
    [
        ("align", "align", "a smaller photo"),
        ("invert", "invert", "invert.batch=1, invert.compare_px=128"),
        ("tune", "tune_around", "tune.rank=8"),
        ("edit", "edit_in_a_row", "a larger edit.frame_every"),
    ],
)
def test_too_little_memory_in_a_stage_says_what_takes_less(
    go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, function: str, mend: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(stages, function, lambda *_, **__: torch.empty(1 << 44))
        with pytest.raises(MemoryShortError, match=rf"memory is used up in the stage {stage}: give {mend}"):
            go(tmp_path)
    assert manifest_of(run_dir(tmp_path))["status"] == "failed"
    go(tmp_path)
    assert [name for name, reused in stage_entries(run_dir(tmp_path)) if reused] == CHAIN[: CHAIN.index(stage)]


SHORT = """
import resource, sys
from pathlib import Path
from pipeline.cli import main
from pipeline.run import run
from tests.test_hard_days import small

generator, out = Path(sys.argv[1]), Path(sys.argv[2])
run(small(generator, out, stages=["align"]))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (96 << 20), resource.RLIM_INFINITY))
photo = Path("data/samples/astronaut.png").absolute()
sys.exit(main([str(photo), f"out={out}", f"generator.path={generator}", "stages=[align,invert]", "threads=1",
    "invert.steps=2", "invert.weights.perceptual=0", "invert.w_stats_samples=1000000", "measure.metrics=false",
    "progress=false"]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's address space")
def test_a_process_that_gets_no_more_memory_ends_with_the_sentence(generator: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", SHORT, str(generator), str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1, done.stderr
    told = done.stderr.strip().splitlines()
    assert told[-1].startswith("photodrag: The memory is used up in the stage invert: give invert.batch=1"), told
    assert "Traceback" not in done.stderr
    assert faults(tmp_path) == []


def test_ctrl_c_at_any_change_keeps_what_is_finished(go: Go, tmp_path: Path, expected: dict[str, str]) -> None:
    """Each try is interrupted at a later change of its files than the one before, every second one twice at once."""
    out, interrupted = tmp_path / "out", 0
    out.mkdir()
    for at in itertools.count(1, 5):
        changes = itertools.count(1)

        def interrupt(changes: Iterator[int] = changes, at: int = at) -> None:
            if next(changes) == at:
                for _ in range(1 + at % 2):
                    signal.raise_signal(signal.SIGINT)

        with before_changes(out, interrupt):
            error = ending(go, out)
        if error is None:
            break
        assert exit_code(error) == 130 and "the same command continues where it stopped" in sentence(error)
        interrupted += 1
        assert faults(out) == []
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert interrupted >= 10
    assert fingerprint(out) == expected
    assert temporary_names(out) == set()


def test_clocks_that_jump_change_nothing(
    go: Go, tmp_path: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps = itertools.cycle([2e9, 0.0, 1.7e9, -5.0, 4e9])
    noon = real_datetime.datetime(2030, 1, 1, 12, tzinfo=real_datetime.timezone.utc)
    stopped = SimpleNamespace(datetime=SimpleNamespace(now=lambda: noon))
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: next(jumps))
        patch.setattr(manifest, "datetime", stopped)
        for _ in range(3):
            go(out)
            for number, path in enumerate(out.rglob("*")):
                os.utime(path, (number % 3 * 2e9, number % 3 * 2e9))  # files of 1970 and of 2096
    assert fingerprint(out) == expected
    folder = run_dir(out)
    assert all(reused for _, reused in stage_entries(folder))
    told = manifest_of(folder)
    assert 0 <= told["seconds"] < 600 and all(0 <= seconds < 600 for seconds in told["timings"].values())
    assert len(list((folder / "manifests").glob("*.json"))) == 2  # the same time of day, and none is lost


def test_a_bar_counts_by_a_clock_that_nobody_sets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with steady_bar(desc="steps", total=4, mininterval=0, miniters=1) as bar:
        monkeypatch.setattr(time, "time", lambda: -1e9)
        bar.update(2)
        assert 0 <= bar.format_dict["elapsed"] < 60
        bar.update(2)
    assert "4/4" in capsys.readouterr().err


def test_naming_shortage_passes_everything_else() -> None:
    with pytest.raises(ZeroDivisionError), naming_shortage("invert"):
        raise ZeroDivisionError
    told = r"in the stage blend: give a smaller photo, or blend\.stitch=0"
    with pytest.raises(MemoryShortError, match=told), naming_shortage("blend"):
        raise MemoryError
