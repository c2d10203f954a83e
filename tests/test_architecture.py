"""The arrows between the packages, read from the source: who may import whom, and what start-up must not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "editing", "inversion", "data", "conf")
FOR_EVERYONE = ("data.errors", "data.files")
ALLOWED = {
    "pipeline": PACKAGES,
    "editing": ("editing", "inversion", "data"),
    "inversion": ("inversion",),
    "inversion.generators": ("inversion.generators",),
    "data": ("data",),
    "conf": ("conf",),
}
"""What the modules of a package may import of ours; the longest matching name counts."""

ONLY_IN = {
    "hydra": ("pipeline.cli", "pipeline.composing"),
    "omegaconf": ("pipeline.cli", "pipeline.composing", "pipeline.schema"),
    "dlib": ("data.landmarks",),
    "pillow_heif": ("data.photo_heif",),
    "c2pa": ("data.provenance",),
    "face_recognition_models": (),
    "matplotlib": ("pipeline.curves", "pipeline.montage"),
    "urllib.request": ("pipeline.downloads",),
    "http.client": ("pipeline.downloads",),
    "IPython": ("pipeline.displaying",),
    "ipywidgets": (),
    "starlette": ("pipeline.studio.server", "pipeline.studio.socket"),
    "uvicorn": ("pipeline.studio.command",),
    "websockets": (),
    "ray": ("pipeline.executors.cluster",),
}
"""Foreign packages that are imported in these modules and nowhere else."""

SOURCES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(source: str, module: str) -> list[str]:
    """Every module that `source` imports anywhere in it, in full; `from a import b` counts as a.b."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [f"{base}.{alias.name}" for alias in node.names]
    return names


def violations(source: str, module: str) -> list[str]:
    """One sentence for each import of `source` that points the wrong way."""
    owner = max((package for package in ALLOWED if within(module, package)), key=len)
    found = []
    for name in imported(source, module):
        ours = any(within(name, package) for package in PACKAGES)
        if (
            ours
            and not any(within(name, one) for one in FOR_EVERYONE)
            and not any(within(name, package) for package in ALLOWED[owner])
        ):
            found.append(f"{module} imports {name}")
        for foreign, places in ONLY_IN.items():
            if within(name, foreign) and module not in places:
                found.append(f"{module} imports {name}")
        if owner == "data" and within(name, "torch"):
            found.append(f"{module} imports {name}")
    return found


def test_there_are_sources_of_every_package() -> None:
    assert {module_name(path).split(".")[0] for path in SOURCES} == set(PACKAGES)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_no_import_points_the_wrong_way(path: Path) -> None:
    assert violations(path.read_text(encoding="utf-8"), module_name(path)) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("editing.drag", "import pipeline.run"),
        ("editing.drag", "def f():\n    from pipeline import run"),
        ("editing.drag", "from hydra import compose"),
        ("inversion.projector", "from data import photo"),
        ("inversion.projector", "from data.photo import Photo"),
        ("inversion.projector", "from editing.drag import drag"),
        ("inversion.generators.stylegan2", "from inversion.losses import lpips"),
        ("inversion.generators.stylegan2", "from ..losses import lpips"),
        ("data.photo", "import torch.nn"),
        ("data.photo", "from inversion import latents"),
        ("data.alignment", "import dlib"),
        ("data.landmarks", "import face_recognition_models"),
        ("pipeline.run", "from omegaconf import OmegaConf"),
        ("pipeline.run", "if True:\n    import hydra.core.utils"),
        ("pipeline.schema", "from hydra import compose"),
        ("pipeline.run", "from urllib.request import urlopen"),
    ],
)
def test_a_wrong_import_is_seen(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pipeline.run", "from inversion.projector import project\nfrom editing import drag"),
        ("pipeline.composing", "from omegaconf import OmegaConf"),
        ("editing.drag", "from inversion.generators.protocol import Generator\nfrom data.alignment import Alignment"),
        ("inversion.projector", "from inversion.generators.protocol import Generator\nimport torch"),
        ("inversion.generators.checkpoint", "from data.errors import ModelError\nfrom .stylegan2 import StyleGAN2"),
        ("data.landmarks", "import dlib\nimport numpy"),
        ("pipeline.cli", "import pipelines_of_others\nimport database"),
    ],
)
def test_a_right_import_is_allowed(module: str, source: str) -> None:
    assert violations(source, module) == []


def loaded_after(words: list[str]) -> set[str]:
    """The top-level modules that are loaded once the command line has run `words`."""
    script = (
        "import contextlib, io, sys\n"
        "from pipeline.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    assert main({words!r}) == 0\n"
        "print(' '.join(sorted({name.split('.')[0] for name in sys.modules})))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["demo", "--cfg", "job"], ["models", "list"]])
def test_the_command_line_starts_without_the_heavy_packages(words: list[str]) -> None:
    loaded = loaded_after(words)
    assert "pipeline" in loaded
    assert not loaded & {"torch", "torchvision", "cv2", "dlib", "lpips", "torchmetrics", "numpy", "matplotlib"}


@pytest.mark.parametrize("words", [["--help"], ["models", "list"]])
def test_what_needs_no_settings_starts_without_hydra(words: list[str]) -> None:
    assert not loaded_after(words) & {"hydra", "omegaconf"}
