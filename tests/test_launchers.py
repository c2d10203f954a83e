"""Sweeps whose jobs run side by side, in processes that a launcher of Hydra's starts."""

from __future__ import annotations

import csv
import threading
from pathlib import Path

import pytest

from data.errors import UsageError
from pipeline.cli import main
from pipeline.locks import run_lock
from pipeline.schema import compose
from tests.runs import PHOTO


def short_sweep(generator: Path, out: Path, *words: str) -> list[str]:
    """Words of a sweep of two short runs of the sample photo."""
    return [
        *(str(PHOTO), f"generator.path={generator}", f"out={out}", "threads=1", "progress=false", "resume=true"),
        *("invert.steps=4", "invert.start_samples=4", "invert.w_stats_samples=50", "invert.weights.perceptual=0.0"),
        *("tune.weights.perceptual=0.0", "measure.metrics=false", "stages=[align,invert,tune]", "-m", "tune.steps=2,3"),
        *words,
    ]


def rows_of(out: Path) -> list[dict[str, str]]:
    (table,) = out.glob("experiment_*/results.csv")
    with table.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_joblib_runs_jobs_of_one_photo_beside_each_other(generator: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install hydra-joblib-launcher==1.2.0")
    assert main(short_sweep(generator, tmp_path / "alone")) == 0
    assert main(short_sweep(generator, tmp_path / "beside", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")) == 0
    alone, beside = rows_of(tmp_path / "alone"), rows_of(tmp_path / "beside")
    assert [row["tune.steps"] for row in beside] == ["2", "3"]
    for name in ("job", "status", "psnr_invert_db", "psnr_tuned_db", "face_distance_tuned"):
        assert [row[name] for row in beside] == [row[name] for row in alone]


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("submitit_slurmm", "did you mean submitit_slurm"),
        ("nobodys", "only .*basic.* is installed$"),
    ],
)
def test_a_launcher_that_is_not_there_is_named(name: str, mend: str) -> None:
    with pytest.raises(UsageError, match=f"hydra/launcher is {name}, but .*{mend}"):
        compose(["edit=smile", f"hydra/launcher={name}"])


def test_the_launcher_is_no_part_of_what_an_experiment_is() -> None:
    from pipeline.folders import effective

    assert effective(["seed=1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]) == ["seed=1"]


def test_a_job_waits_for_its_turn_in_a_run_folder(tmp_path: Path) -> None:
    entered = threading.Event()

    def second_job() -> None:
        with run_lock(tmp_path, wait_s=60.0):
            entered.set()

    waiting = threading.Thread(target=second_job)
    with run_lock(tmp_path):
        waiting.start()
        assert not entered.wait(0.2)
    waiting.join(60)
    assert entered.is_set()
