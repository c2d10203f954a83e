"""Runs that end at any moment: what is visible then is whole, and the next call ends in the same bits.

A process that is killed leaves its folder as it was before the next change of the file system that it would have made.
So one run is enough to try every such moment: Python tells of each change before it is made, and the folder is copied
there. Real kills of whole processes are the benchmark's (`benchmarks/kills.py`).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import resilience
from benchmarks.kills import (
    Course,
    Outcome,
    draw,
    faults,
    figures_of,
    fingerprint,
    temporary_names,
    uninterrupted,
    visible_files,
)
from pipeline import products
from pipeline.models import Models
from pipeline.pictures import png_bytes
from pipeline.progress import Console
from pipeline.run import run
from pipeline.schema import RunConfig
from tests.runs import CHAIN, run_dir, short_config
from tests.watched_changes import before_changes

ROOT = Path(__file__).resolve().parents[1]
TOGETHER = """
import sys
from pathlib import Path
from pipeline.run import run
from tests.runs import short_config

run(short_config(Path(sys.argv[1]), Path(sys.argv[2])))
"""


class Moments:
    """Copies of a folder before each change that this process makes in it, unless what is visible stayed the same."""

    def __init__(self, folder: Path, copies: Path) -> None:
        self.folder, self.copies = folder, copies
        self.found: list[Path] = []
        self.changes = 0
        self._before: object = None

    def look(self) -> None:
        """Copy the folder if something visible is new, gone or another file."""
        self.changes += 1
        seen = [(path, path.stat().st_ino, path.stat().st_mtime_ns) for path in visible_files(self.folder)]
        if seen != self._before:
            self._before = seen
            self.found.append(Path(shutil.copytree(self.folder, self.copies / str(len(self.found)))))


def brief(generator: Path, folder: Path) -> RunConfig:
    """A run of every stage with a checkpoint in each optimisation, and a saved result."""
    config = short_config(generator, folder / "runs", save=f"{folder / 'saved'}/")
    return replace(
        config,
        invert=replace(config.invert, steps=3),
        tune=replace(config.tune, steps=3),
        edit=replace(config.edit, steps=3),
    )


def test_a_run_that_ends_before_any_change_of_its_files_leaves_whole_ones_and_is_finished_to_the_same_bits(
    generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chart = png_bytes(np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr(products, "run_curves", lambda _: chart)  # drawing one takes longer than all the rest
    models, console = Models(), Console(progress=False, quiet=True)
    run(brief(generator, tmp_path / "whole"), models=models, console=console)
    expected = fingerprint(tmp_path / "whole")
    assert len(expected) > 30
    (tmp_path / "watched").mkdir()
    moments = Moments(tmp_path / "watched", tmp_path / "copies")
    with before_changes(moments.folder, moments.look):
        run(brief(generator, tmp_path / "watched"), models=models, console=console)
    assert fingerprint(tmp_path / "watched") == expected
    assert moments.changes > 100 and len(moments.found) > 30
    assert {stage for folder in moments.found for stage in _stages(folder)} == {*CHAIN}
    saved = 0
    folder = tmp_path / "watched"
    for copy in moments.found:
        shutil.rmtree(folder)
        copy.rename(folder)  # a run's folder does not move when its process is killed
        assert faults(folder) == []
        done = any((folder / "saved").glob("*.png"))  # a whole result is never replaced: the next one gets a number
        run(brief(generator, folder), models=models, console=console)
        again = {f"saved/astronaut_edited-2.png{end}" for end in ("", ".photodrag.json")} if done else set()
        made = fingerprint(folder)
        assert {name: digest for name, digest in made.items() if name not in again} == expected
        assert set(made) - set(expected) == again
        assert faults(folder) == [] and temporary_names(folder) == set()
        saved += done
    assert 0 < saved < len(moments.found)


def _stages(folder: Path) -> set[str]:
    """Stages that are finished in a copy."""
    return {path.parent.parent.name for path in folder.glob("runs/*/*/*/stage.json")}


def test_what_is_half_written_is_noticed(out: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(out, folder / "runs")
    assert faults(folder) == []
    run_folder = run_dir(folder / "runs")
    cut = ["result.png", "manifest.json", "edit.mp4", "latent.safetensors", "latent.npy", "latent.pt", "report.html"]
    for name in cut:
        content = (run_folder / name).read_bytes()
        (run_folder / name).write_bytes(content[: len(content) // 2])
    (stage,) = (run_folder / "tune").iterdir()
    (stage / "facts.json").unlink()
    told = "\n".join(faults(folder))
    assert all(name in told for name in [*cut, "tune"])
    assert len(faults(folder)) == len(cut) + 1


def test_a_kill_of_a_whole_process_is_told_with_what_differs(tmp_path: Path) -> None:
    assert uninterrupted(tmp_path / "out", ["--version"]).made == {}
    course = Course((), 10.0, 40, {})
    drawn = list(islice(draw(course, 50, 0), 50))
    assert drawn == list(islice(draw(course, 50, 0), 50))
    assert sum(kill.seconds is None for kill in drawn) == 25
    assert all(0 <= (kill.seconds or 0) <= 10 and kill.write <= 40 for kill in drawn)
    found = [Outcome(drawn[0], True, "tune", (), ()), Outcome(drawn[1], True, "tune", ("half",), ("result.png",))]
    assert figures_of(found) == {
        "kill_moments": 2,
        "kill_equal": 1,
        "kill_half_written": 1,
        "kill_aimed_at_writes": 1,
        "kill_behind_tune": 2,
    }


def test_two_processes_at_one_run_folder_do_no_harm(generator: Path, tmp_path: Path, out: Path) -> None:
    """Both are started at once: one of them does the work, and the other says that it is in use, or finds it done."""
    expected = fingerprint(out)
    words = [sys.executable, "-c", TOGETHER, str(generator), str(tmp_path / "out")]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(words, cwd=ROOT, **pipes) for _ in range(2)]
    ends = [(*process.communicate(timeout=300), process.returncode) for process in processes]
    assert any(code == 0 for _, _, code in ends), ends
    for _, errors, code in ends:
        assert code == 0 or "is in use by process" in errors.splitlines()[-1], errors
    assert fingerprint(tmp_path / "out") == expected
    assert faults(tmp_path / "out") == [] and temporary_names(tmp_path / "out") == set()


def test_a_part_of_the_benchmark_that_cannot_run_leaves_its_figures_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(_quick: bool, _photos: Path | None) -> dict[str, float]:
        raise ImportError("No module named 'ray'")

    figures = {"kill_moments": 2.0, "kill_equal": 2.0, "kill_half_written": 0.0}
    parts = {"kill": lambda _quick, _photos: figures, "ray": absent}
    monkeypatch.setattr(resilience, "PARTS", parts)
    assert resilience.main(["--json", str(tmp_path / "f.json")]) == 0
    assert json.loads((tmp_path / "f.json").read_text()) == figures
    assert capsys.readouterr().err == "ray is left out: No module named 'ray'\n"
    for wrong in ({"kill_equal": 1.0}, {"kill_half_written": 1.0}, {"fuzz_hangs": 1.0}, {"fuzz_tracebacks": 2.0}):
        monkeypatch.setattr(resilience, "PARTS", {"kill": lambda _q, _p, wrong=wrong: figures | wrong})
        assert resilience.main(["--only", "kill"]) == 1
