"""A tiny generator's file, a finished run on it and the face network, made once for all tests that need them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from data.landmarks import DESCRIPTOR_MODEL, model_path
from inversion.generators.checkpoint import save_generator
from inversion.identity import load_face_network
from inversion.perceptual import FacePerceptual
from pipeline.run import run
from tests.runs import short_config
from tests.tiny import tiny_generator


@pytest.fixture(scope="session")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("generator") / "tiny.safetensors"
    save_generator(tiny_generator(resolution=64, channels=8, w_dim=16), path)
    return path


@pytest.fixture(scope="session")
def face() -> FacePerceptual:
    return FacePerceptual(load_face_network(model_path(DESCRIPTOR_MODEL)))


@pytest.fixture(scope="session")
def finished_out(generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of one whole run; tests work on copies."""
    out = tmp_path_factory.mktemp("finished")
    run(short_config(generator, out))
    return out


@pytest.fixture
def out(finished_out: Path, tmp_path: Path) -> Path:
    """A copy of the finished run's output folder."""
    return Path(shutil.copytree(finished_out, tmp_path / "out"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the model cache is: a folder that does not exist yet, beside an empty torch hub."""
    folder = tmp_path / "models"
    monkeypatch.setenv("PHOTODRAG_CACHE", str(folder))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("PHOTODRAG_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    return folder
