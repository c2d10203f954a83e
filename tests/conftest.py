"""A tiny generator's file, a finished run on it and the face network, made once for all tests that need them."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data.landmarks import DESCRIPTOR_MODEL, model_path
from inversion.generators.checkpoint import save_generator
from inversion.identity import load_face_network
from inversion.perceptual import FacePerceptual
from pipeline.run import run
from tests.runs import short_config
from tests.tiny import tiny_generator


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A background job of a shell may ignore Ctrl-C, and so would every process that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A served studio with a fake desk, and a browser: one for each module, as a running playwright owns the thread."""
    pytest.importorskip("playwright", reason="playwright drives the browser: pip install '.[test]'")
    from tests.studio_browser import serve

    yield from serve(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="module")
def modules(studio: Any) -> Iterator[Callable[..., Any]]:
    """call(module, body, *arguments) runs a function's body (m, a) in the browser with a module of the page."""
    from tests.studio_browser import module_calls

    yield from module_calls(studio)


@pytest.fixture
def new_tab(studio: Any) -> Iterator[Callable[..., Any]]:
    """Opens tabs of the studio's page, which are closed afterwards."""
    from tests.studio_browser import tabs

    yield from tabs(studio)


@pytest.fixture
def tab(new_tab: Callable[..., Any]) -> Any:
    """One tab, on the first screen."""
    return new_tab()
