"""Hydra's launchers of sweeps: which can be had, which one is chosen, and the folder that it needs."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.errors import UsageError
from pipeline.validation import did_you_mean

GROUP = "hydra/launcher"
PACKAGES = {
    "joblib": "hydra-joblib-launcher==1.2.0",
    "submitit_local": "hydra-submitit-launcher==1.2.0",
    "submitit_slurm": "hydra-submitit-launcher==1.2.0",
}
"""Launchers that work with the Hydra which photodrag asks for."""
OWN = "basic"
"""Hydra's own launcher, which runs the jobs of a sweep one after the other in this process."""


def check_launcher(name: str, installed: Sequence[str]) -> None:
    """Raise UsageError for a launcher that is not installed; it names the package that brings it."""
    if name not in installed:
        package = PACKAGES.get(name)
        mend = f": pip install '{package}' brings it" if package else did_you_mean(name, [*installed, *PACKAGES])
        raise UsageError(f"{GROUP} is {name}, but only {', '.join(installed)} is installed{mend}")


def runs_side_by_side(chosen: Sequence[object]) -> bool:
    """Whether the last launcher that was chosen is other than Hydra's own, and runs jobs in processes of their own."""
    return bool(chosen) and chosen[-1] != OWN


@contextlib.contextmanager
def launcher_folder(experiment: Path, side_by_side: bool) -> Iterator[str]:
    """The folder that Hydra insists on for itself.

    Its own launcher leaves nothing there that anyone needs. Others keep the logs and the answers of their jobs there,
    which jobs on other machines write: it then lies in the experiment's folder, and stays.
    """
    if side_by_side:
        from pipeline.artifacts import ensure_folder

        yield str(ensure_folder(experiment / "launcher"))
        return
    with tempfile.TemporaryDirectory(prefix="photodrag-sweep-") as scratch:
        yield scratch
