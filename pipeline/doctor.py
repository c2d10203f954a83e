"""`photodrag doctor`: what is installed, what is missing, what each missing part would give and how to get it."""

from __future__ import annotations

import contextlib
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path

from pipeline import __version__
from pipeline.doctor_check import Check, Status, checks_json, format_check
from pipeline.doctor_place import check_disk, check_folder, check_limits, processor_threads
from pipeline.errors import EXIT_DONE, EXIT_FAILED, one_line

NEEDED_MEMORY_GB = 3.0
MIN_PYTHON = (3, 10)

BACKBONES = {
    "vgg": "what perceptual=auto takes as soon as it is here",
    "alex": "the one that most papers report",
    "squeeze": "the smallest LPIPS",
}
"""What each trunk of LPIPS gives."""

EXTRAS = {
    "heif": ("pillow-heif", "HEIC and HEIF photos"),
    "c2pa": ("c2pa-python", "signed Content Credentials, blend.c2pa_key"),
    "ray": ("ray", "executor=ray, a batch over several machines"),
}
"""The extras of the package but for the studio's: what each brings, and what that gives."""


def doctor(as_json: bool = False) -> int:
    """Print the table; 0 when the main job (photo in, dragged photo out) can run, 1 when a part of it is missing.

    as_json: print what `pipeline.doctor_check.checks_json` describes instead; what packages print as they load then
    goes to standard error.
    """
    if as_json:
        with contextlib.redirect_stdout(sys.stderr):
            checks = list(all_checks())
        print(checks_json(checks))
        return EXIT_FAILED if any(check.status == "missing" for check in checks) else EXIT_DONE
    print(f"photodrag {__version__}\n")
    broken = 0
    for check in all_checks():
        broken += check.status == "missing"
        print(format_check(check))
    print(f"\nNeeded and missing: {broken}." if broken else "\nEverything that a run needs is here.")
    return EXIT_FAILED if broken else EXIT_DONE


def all_checks() -> Iterator[Check]:
    """Every row in the order of the table; a check that fails in an unforeseen way becomes a missing row."""
    groups: list[tuple[str, Callable[[], Iterable[Check]]]] = [
        ("python", check_python),
        ("packages", check_packages),
        ("device", check_device),
        ("face models", check_face_models),
        ("embedded generator", check_generator),
        ("model cache", check_cache),
        ("LPIPS backbones", check_backbones),
        ("video", check_video),
        ("studio", check_studio),
        ("extras", check_extras),
        ("machine", check_machine),
        ("disk", check_disk),
        ("run folder", check_folder),
        ("limits", check_limits),
    ]
    for name, group in groups:
        try:
            yield from group()
        except Exception as error:  # noqa: BLE001  a broken part is what the table is for
            yield Check(name, "missing", f"{type(error).__name__}: {one_line(error)}")


def check_python() -> Iterator[Check]:
    """The interpreter's version."""
    enough = sys.version_info[:2] >= MIN_PYTHON
    wanted = ".".join(map(str, MIN_PYTHON))
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    mend = f"a virtual environment of Python {wanted} or later"
    yield Check("python", "ok" if enough else "missing", found, mend=mend)


def check_packages() -> Iterator[Check]:
    """The packages that a run imports; torch and OpenCV are imported, since either may be installed yet not load."""
    heavy = ("torch", "opencv", "dlib", "torchvision", "lpips", "torchmetrics")
    for name in (*heavy, "hydra", "numpy", "safetensors", "matplotlib", "pillow", "tqdm", "platformdirs", "pyyaml"):
        yield check_package(name)


def check_package(name: str) -> Check:
    """Whether one package is installed and loads."""
    distributions = {"opencv": ("opencv-python", "opencv-python-headless"), "dlib": ("dlib-bin", "dlib")}
    candidates = distributions.get(name, ("hydra-core",) if name == "hydra" else (name,))
    mend = f"pip install {candidates[0]}"
    found = [(candidate, version) for candidate in candidates if (version := _version(candidate))]
    if not found:
        return Check(name, "missing", "not installed", mend=mend)
    loads: dict[str, Callable[[], None]] = {"torch": _load_torch, "opencv": _load_opencv, "dlib": _load_dlib}
    try:
        loads.get(name, _load_nothing)()
    except (ImportError, OSError) as error:
        reason = f"{found[0][1]} does not load: {one_line(error)}"
        return Check(name, "missing", reason, mend=f"{mend} --force-reinstall")
    return Check(name, "ok", " ".join(found[0]) if found[0][0] != name else found[0][1])


def check_device() -> Iterator[Check]:
    """The CUDA device that device=auto would take, or that the processor is used."""
    import torch

    if torch.cuda.is_available():
        memory_gb = torch.cuda.get_device_properties(0).total_memory / 1e9
        yield Check("device", "ok", f"cuda: {torch.cuda.get_device_name(0)}, {memory_gb:.0f} GB")
    else:
        cuda = torch.version.cuda
        reason = f"torch is built for CUDA {cuda}, no device answers" if cuda else "torch is built without CUDA"
        yield Check("device", "ok", f"cpu ({reason})")


def check_face_models() -> Iterator[Check]:
    """dlib's two model files, which the package face_recognition_models brings."""
    from data.errors import ModelError
    from data.landmarks import DESCRIPTOR_MODEL, LANDMARK_MODEL, model_path

    uses = {
        "dlib landmarks": (LANDMARK_MODEL, "align=ffhq and the presets such as edit=smile"),
        "dlib face network": (DESCRIPTOR_MODEL, "perceptual=face and the face distance in the report"),
    }
    for name, (file, gives) in uses.items():
        try:
            yield Check(name, "ok", _file_text(model_path(file)))
        except ModelError as error:
            yield Check(name, "missing", str(error), gives, "pip install face_recognition_models")


def check_generator() -> Iterator[Check]:
    """The generator that comes with the package, loaded, with its resolution and the start of its sha256."""
    from data.errors import ModelError
    from inversion.generators.checkpoint import load_generator
    from pipeline.models import embedded_generator

    try:
        path = embedded_generator()
        generator, sha256 = load_generator(path)
    except ModelError as error:
        yield Check("embedded generator", "missing", str(error), "generator=embedded, the default")
    else:
        found = f"{_file_text(path)}, {generator.resolution} px, sha256 {sha256[:16]}"
        yield Check("embedded generator", "ok", found)


def check_cache() -> Iterator[Check]:
    """The folder of downloaded models: how many are there, and whether more may be fetched."""
    from pipeline.zoo import cache_folder, entry_path, is_offline, zoo

    folder = cache_folder()
    here = [entry_path(entry) for entry in zoo() if entry_path(entry).is_file()]
    size_mb = sum(path.stat().st_size for path in here) / 1e6
    offline = "; offline, nothing is fetched" if is_offline() else ""
    yield Check("model cache", "ok", f"{folder}, {len(here)} of {len(zoo())} models, {size_mb:.0f} MB{offline}")


def check_backbones() -> Iterator[Check]:
    """LPIPS trunks in the model cache or torch hub's; a run never downloads one, and perceptual=face needs none."""
    from inversion.perceptual import backbone_path
    from pipeline.zoo import cache_folder, zoo_entry

    for name, use in BACKBONES.items():
        path = backbone_path(name, cache=cache_folder())
        if path.is_file():
            yield Check(f"LPIPS {name}", "ok", _file_text(path))
        else:
            entry = zoo_entry(f"lpips-{name}")
            gives = f"perceptual=lpips_{name} ({entry.size_mb:.0f} MB; {use})"
            yield Check(f"LPIPS {name}", "optional", f"no {path}", gives, f"photodrag models download {entry.name}")


def check_video() -> Iterator[Check]:
    """Whether OpenCV writes an MP4 here, tried on two small frames."""
    import numpy as np

    from data.errors import PhotodragError
    from pipeline.video import write_video

    frames = [np.full((256, 256, 3), level, np.uint8) for level in (64, 192)]
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield Check("mp4 encoder", "ok", f"OpenCV, {write_video(Path(folder) / 'trial.mp4', frames, fps=24)}")
        except PhotodragError as error:
            gives = "edit.mp4, the video of the drag"
            yield Check("mp4 encoder", "optional", str(error), gives, "pip install opencv-python")
    ffmpeg = shutil.which("ffmpeg")
    yield Check("ffmpeg", "ok", ffmpeg or "not on the PATH (not needed)")


def check_studio() -> Iterator[Check]:
    """The packages of the browser editor, which nothing else needs."""
    from pipeline.studio.command import PACKAGES

    found = {name: _version(name) for name in PACKAGES}
    missing = [name for name, version in found.items() if version is None]
    if missing:
        gives = "photodrag studio, the editor in the browser"
        yield Check("studio", "optional", f"no {', '.join(missing)}", gives, "pip install 'photodrag[studio]'")
    else:
        yield Check("studio", "ok", ", ".join(f"{name} {version}" for name, version in found.items()))


def check_extras() -> Iterator[Check]:
    """The packages of the other extras, each of which one thing needs."""
    for extra, (distribution, gives) in EXTRAS.items():
        version = _version(distribution)
        if version is None:
            yield Check(extra, "optional", f"no {distribution}", gives, f"pip install 'photodrag[{extra}]'")
        else:
            yield Check(extra, "ok", f"{distribution} {version}")


def check_machine() -> Iterator[Check]:
    """Processor threads and memory."""
    yield Check("threads", "ok", processor_threads())
    memory_gb = _available_memory_gb()
    if memory_gb is None:
        yield Check("memory", "ok", "not known on this system")
    else:
        status: Status = "ok" if memory_gb >= NEEDED_MEMORY_GB else "optional"
        mend = f"close other programs until {NEEDED_MEMORY_GB:.0f} GB are free"
        yield Check("memory", status, f"{memory_gb:.1f} GB available", "a run without swapping", mend)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _load_nothing() -> None:
    return None


def _load_torch() -> None:
    import torch  # noqa: F401


def _load_opencv() -> None:
    import cv2  # noqa: F401


def _load_dlib() -> None:
    """Run the detector on an empty picture: the only proof that dlib loads which keeps it inside data.landmarks."""
    import numpy as np

    from data.errors import NoFaceError
    from data.landmarks import find_faces

    try:
        find_faces(np.zeros((64, 64, 3), np.uint8), upsample_max=0)
    except NoFaceError:
        return


def _file_text(path: Path) -> str:
    return f"{path.name}, {path.stat().st_size / 1e6:.1f} MB"


def _available_memory_gb() -> float | None:
    """Memory that can be had without swapping, from the kernel's own estimate; None where it gives none."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    available_kib = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(available_kib[0]) * 1024 / 1e9 if available_kib else None
