"""A plain installation, used from another folder: everything that a run needs is in the package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml

from pipeline import __version__

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "inversion", "editing", "conf", "data")

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's files, so that building leaves nothing in the repository itself."""
    folder = tmp_path_factory.mktemp("source") / "photodrag"
    leave = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "photodrag_runs", "venv")
    shutil.copytree(REPOSITORY, folder, ignore=leave)
    return folder


@pytest.fixture(scope="module")
def archive(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive of the copy."""
    folder = tmp_path_factory.mktemp("archive")
    call = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", call], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.iterdir()
    return path


def built_wheel(source: Path, folder: Path) -> Path:
    """The wheel of a source folder or a source archive."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    done = subprocess.run([*pip, str(folder), str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the source archive gives."""
    return built_wheel(archive, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds nothing but the installed package, which has gone through archive and wheel."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
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


def contents(wheel: Path) -> dict[str, int]:
    """The files of a wheel with the checksum of each, but for its own list of them."""
    with zipfile.ZipFile(wheel) as file:
        return {one.filename: one.CRC for one in file.infolist() if not one.filename.endswith("/RECORD")}


def test_the_archive_gives_the_wheel_of_the_repository(source: Path, wheel: Path, tmp_path: Path) -> None:
    direct = contents(built_wheel(source, tmp_path))
    assert len(direct) > 200
    assert contents(wheel) == direct


def test_the_archive_holds_what_a_person_reads_and_no_half_of_the_tests(archive: Path) -> None:
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "docs/errors.md", "docs/install.md"} <= names
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)


def test_what_is_no_code_is_inside(installed: Path) -> None:
    for name in (
        "conf/config.yaml",
        "data/samples/astronaut.png",
        "pipeline/studio/page/index.html",
        "pipeline/error_catalogue/general.yaml",
        *(f"{package}/py.typed" for package in PACKAGES),
    ):
        assert (installed / name).is_file(), name
    assert list((installed / "data" / "embedded").glob("*.safetensors"))


def test_extras_and_versions_are_told_to_installers(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        (name,) = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        told = message_from_bytes(file.read(name))
    assert set(told.get_all("Provides-Extra", [])) == {"heif", "c2pa", "ray", "studio", "all", "docs", "test"}
    assert told["Requires-Python"] == ">=3.10"
    versions = [f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12, 13)]
    assert set(versions) <= set(told.get_all("Classifier", []))


CLIENT = """
import conf
from data.errors import PhotodragError
from editing.points import check_pairs
from inversion.schedule import learning_rate
from pipeline.error_pages import Entry, anchor_of, explain

entry: Entry | None = explain("photo-empty")
reveal_type(learning_rate)
reveal_type(entry)
anchor: int = anchor_of("photo-empty")
"""


@pytest.fixture(scope="module")
def client_python(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python whose own packages are the installed ones, as a type checker finds them."""
    folder = tmp_path_factory.mktemp("client")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    for package in PACKAGES:
        shutil.copytree(installed / package, packages / package)
    return folder / "venv" / "bin" / "python"


def checked(python: Path, folder: Path) -> str:
    """What mypy says of a client's file, strictly."""
    (folder / "client.py").write_text(CLIENT)
    mypy = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        f"--python-executable={python}",
        f"--cache-dir={folder / 'cache'}",
    ]
    # Of this session's own path mypy would take our sources for the client's.
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run([*mypy, "client.py"], cwd=folder, env=env, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a virtual environment has other folders there")
def test_a_clients_type_checker_sees_our_types(client_python: Path, tmp_path: Path) -> None:
    told = checked(client_python, tmp_path)
    assert 'Incompatible types in assignment (expression has type "str | None", variable has type "int")' in told
    assert 'Revealed type is "def (progress:' in told
    assert "-> float" in told
    assert "Revealed type is" in told and "pipeline.error_pages.Entry" in told
    assert "Found 1 error in 1 file" in told


@pytest.mark.skipif(sys.platform == "win32", reason="a virtual environment has other folders there")
def test_without_the_marker_it_would_not(client_python: Path, tmp_path: Path) -> None:
    (marker,) = client_python.parents[1].glob("lib/python*/site-packages/pipeline/py.typed")
    marker.unlink()
    try:
        assert "missing library stubs or py.typed marker" in checked(client_python, tmp_path)
    finally:
        marker.touch()


def test_an_error_is_explained_from_the_package(photodrag: Command) -> None:
    done = photodrag("explain", "photo-empty")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("The file is empty (photo-empty)\ncause: ")


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
