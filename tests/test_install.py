"""A plain installation, used from another folder: everything that a run needs is in the package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline import __version__

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "inversion", "editing", "conf", "data")

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds nothing but the installed package, built from a copy so that the repository stays clean."""
    source = tmp_path_factory.mktemp("source") / "photodrag"
    leave = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "photodrag_runs", "venv", "tests")
    shutil.copytree(REPOSITORY, source, ignore=leave)
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    done = subprocess.run([*pip, str(target), str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def photodrag(installed: Path, tmp_path: Path) -> Command:
    """Runs the installed script in an empty folder outside the repository."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(installed)}
        script = [sys.executable, str(installed / "bin" / "photodrag"), *words]
        return subprocess.run(script, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    return run


def test_the_package_holds_every_module_and_every_data_file(installed: Path) -> None:
    files = [path for package in PACKAGES for path in (REPOSITORY / package).rglob("*") if path.is_file()]
    ours = {path.relative_to(REPOSITORY) for path in files if "__pycache__" not in path.parts}
    assert {path for path in ours if not (installed / path).is_file()} == set()
    assert not (installed / "tests").exists()


def test_help_version_and_the_installed_code_are_used(photodrag: Command, tmp_path: Path) -> None:
    assert photodrag("--version").stdout == f"photodrag {__version__}\n"
    done = photodrag("--help")
    assert done.returncode == 0
    assert "edit        bigger_eyes, close_eyes, close_mouth, direction, drag" in done.stdout
    assert "photodrag replay RECIPE [PHOTO] [key=value ...]" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_config_composes_from_the_package(photodrag: Command, installed: Path) -> None:
    done = photodrag("demo", "--cfg", "job")
    assert (done.returncode, done.stderr) == (0, "")
    shown = yaml.safe_load(done.stdout)
    assert shown["edit"]["preset"] == "smile"
    assert shown["photo"] == str(installed / "data" / "samples" / "astronaut.png")
    assert Path(shown["photo"]).is_file()


def test_a_usage_error_from_the_script(photodrag: Command) -> None:
    done = photodrag("nothing.jpg")
    assert done.returncode == 2
    assert done.stderr.startswith("photodrag: photo is nothing.jpg, which does not exist")


def test_doctor_finds_all_that_a_run_needs(photodrag: Command) -> None:
    done = photodrag("doctor")
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith(f"photodrag {__version__}\n")
    assert done.stdout.endswith("Everything that a run needs is here.\n")
    assert "ok        embedded generator" in done.stdout
