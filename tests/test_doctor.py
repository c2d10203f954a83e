"""The table of `photodrag doctor`: what is there, what each missing part would give, and the exit code."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest

from data.errors import ModelError
from data.files import file_sha256
from inversion.generators.checkpoint import save_generator
from inversion.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from inversion.perceptual import BACKBONE_FILES
from pipeline import __version__, doctor, doctor_place
from pipeline.cli import main
from pipeline.doctor import BACKBONES, check_backbones, check_cache, check_package
from pipeline.doctor_check import Check, Status, checks_json, format_check
from pipeline.zoo import zoo, zoo_entry


def rows(checks: Iterable[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_missing_backbone_is_optional_and_names_what_it_gives_and_the_command(cache: Path) -> None:
    check = rows(check_backbones())["LPIPS vgg"]
    assert check.status == "optional"
    assert check.found == f"no {cache / 'vgg16-397923af.pth'}"
    text = format_check(check)
    assert "gives: perceptual=lpips_vgg (553 MB; what perceptual=auto takes" in text
    assert "get it: photodrag models download lpips-vgg" in text


@pytest.mark.parametrize("name", list(BACKBONES))
@pytest.mark.parametrize("place", ["models", "torch/hub/checkpoints"])
@pytest.mark.usefixtures("cache")
def test_a_backbone_in_either_cache_is_found(place: str, name: str, tmp_path: Path) -> None:
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / BACKBONE_FILES[name]).write_bytes(b"x" * 3_000_000)
    found = rows(check_backbones())
    assert [check.name for check in found.values() if check.status == "ok"] == [f"LPIPS {name}"]
    assert found[f"LPIPS {name}"].found == f"{BACKBONE_FILES[name]}, 3.0 MB"


def test_the_zoo_fetches_the_files_that_torchvision_would() -> None:
    import torchvision

    for name, function in {"vgg": "vgg16", "alex": "alexnet", "squeeze": "squeezenet1_1"}.items():
        weights = torchvision.models.get_model_weights(function)["IMAGENET1K_V1"]
        assert weights.url == zoo_entry(f"lpips-{name}").url


def test_the_model_cache_is_shown_with_what_it_holds(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = check_cache()
    assert (check.status, check.found) == ("ok", f"{cache}, 0 of {len(zoo())} models, 0 MB")
    cache.mkdir()
    (cache / "stylegan2-ffhq-256.pkl").write_bytes(b"x" * 3_000_000)
    monkeypatch.setenv("PHOTODRAG_OFFLINE", "1")
    (check,) = check_cache()
    assert check.found == f"{cache}, 1 of {len(zoo())} models, 3 MB; offline, nothing is fetched"


def test_a_package_that_is_not_installed_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert check_package("hydra") == Check("hydra", "missing", "not installed", mend="pip install hydra-core")


def test_a_package_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr(doctor, "_load_opencv", load)
    check = check_package("opencv")
    assert check.status == "missing"
    assert check.found.endswith("does not load: libGL.so.1: cannot open shared object file")


def test_a_missing_generator_is_a_missing_part(monkeypatch: pytest.MonkeyPatch) -> None:
    def embedded_generator() -> Path:
        raise ModelError("nothing in the package")

    monkeypatch.setattr("pipeline.models.embedded_generator", embedded_generator)
    (check,) = doctor.check_generator()
    assert (check.status, check.found) == ("missing", "nothing in the package")


def test_the_generator_is_loaded_and_named_with_its_sha256(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tiny.safetensors"
    config = StyleGAN2Config(resolution=32, z_dim=8, w_dim=8, channel_base=64, channel_max=4, mapping_layers=1)
    save_generator(StyleGAN2(config), path)
    monkeypatch.setattr("pipeline.models.embedded_generator", lambda: path)
    (check,) = doctor.check_generator()
    assert check.status == "ok"
    assert check.found.startswith("tiny.safetensors, ")
    assert check.found.endswith(f" MB, 32 px, sha256 {file_sha256(path)[:16]}")


def test_a_missing_face_model_is_a_missing_part(monkeypatch: pytest.MonkeyPatch) -> None:
    def model_path(name: str) -> Path:
        raise ModelError(f"{name} is not installed")

    monkeypatch.setattr("data.landmarks.model_path", model_path)
    check = rows(doctor.check_face_models())["dlib landmarks"]
    assert check.status == "missing"
    assert check.mend == "pip install face_recognition_models"


def test_a_check_that_breaks_becomes_a_missing_row_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[Check]:
        raise RuntimeError("no\nvideo")

    monkeypatch.setattr(doctor, "check_video", broken)
    found = rows(doctor.all_checks())
    assert found["video"] == Check("video", "missing", "RuntimeError: no video")
    assert "disk" in found


@pytest.mark.parametrize(
    ("statuses", "code", "verdict"),
    [
        (("ok", "optional"), 0, "Everything that a run needs is here."),
        (("ok", "missing", "missing"), 1, "Needed and missing: 2."),
    ],
)
def test_the_exit_code_counts_what_is_needed(
    statuses: tuple[Status, ...],
    code: int,
    verdict: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(doctor, "all_checks", lambda: [Check("part", status, "found") for status in statuses])
    assert doctor.doctor() == code
    assert capsys.readouterr().out.splitlines()[-1] == verdict


def test_too_little_memory_is_a_note_and_too_little_disk_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_available_memory_gb", lambda: 1.5)
    monkeypatch.setattr(doctor_place, "NEEDED_DISK_GB", 1e9)
    (memory,) = [check for check in doctor.check_machine() if check.name == "memory"]
    assert (memory.status, memory.found) == ("optional", "1.5 GB available")
    (disk,) = doctor_place.check_disk()
    assert disk.status == "missing"


NAMES = [
    *("python", "torch", "opencv", "dlib", "torchvision", "lpips", "torchmetrics", "hydra", "numpy", "safetensors"),
    *("matplotlib", "pillow", "tqdm", "platformdirs", "pyyaml", "device", "dlib landmarks", "dlib face network"),
    *(
        "embedded generator",
        "model cache",
        "LPIPS vgg",
        "LPIPS alex",
        "LPIPS squeeze",
        "mp4 encoder",
        "ffmpeg",
        "studio",
    ),
    *("heif", "c2pa", "ray", "threads", "memory", "disk", "run folder", "locks", "clock"),
    *("open files", "address space", "file size", "core files"),
]
"""The checks of the JSON; programs know them by these names, so that a change is a new version of the format."""


def doctor_json(folder: Path) -> tuple[int, dict[str, object]]:
    """Exit code and JSON of `photodrag doctor --json` in a folder."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    command = [sys.executable, "-m", "pipeline", "doctor", "--json"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limits of a process that resource knows")
def test_the_json_has_every_check_by_its_name_and_leaves_nothing_behind(tmp_path: Path) -> None:
    code, told = doctor_json(tmp_path)
    assert (code, told["ok"]) == (0, True)
    assert (told["photodrag_doctor"], told["photodrag"]) == (1, __version__)
    checks = told["checks"]
    assert isinstance(checks, list)
    assert [check["name"] for check in checks] == NAMES
    assert {tuple(check) for check in checks} == {("name", "status", "found", "gives", "mend")}
    assert list(tmp_path.iterdir()) == []


def test_the_json_is_whole_when_a_check_breaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> list[Check]:
        print("noise")
        raise RuntimeError("no\nvideo \udcff")

    monkeypatch.setattr(doctor, "check_video", broken)
    assert main(["doctor", "--json"]) == 1
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert (told["ok"], shown.err) == (False, "noise\n")
    missing = [check for check in told["checks"] if check["status"] == "missing"]
    assert [(check["name"], check["found"]) for check in missing] == [("video", "RuntimeError: no video \udcff")]
    shown.out.encode("ascii")


def test_the_json_holds_what_the_table_shows() -> None:
    told = json.loads(checks_json([Check("part", "missing", "gone ü", "this", "that"), Check("other", "ok", "1.0")]))
    assert told["ok"] is False
    assert told["checks"] == [
        {"name": "part", "status": "missing", "found": "gone ü", "gives": "this", "mend": "that"},
        {"name": "other", "status": "ok", "found": "1.0", "gives": "", "mend": ""},
    ]


def test_json_belongs_to_the_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list", "--json"]) == 2
    assert "--json is given to photodrag models: allowed is it with doctor" in capsys.readouterr().err


def test_an_extra_that_is_missing_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "ray":
            raise metadata.PackageNotFoundError(name)
        return "1.2"

    monkeypatch.setattr(metadata, "version", version)
    found = rows(doctor.check_extras())
    assert found["heif"] == Check("heif", "ok", "pillow-heif 1.2")
    assert found["ray"].status == "optional"
    assert found["ray"].mend == "pip install 'photodrag[ray]'"


def test_every_extra_that_is_no_tool_of_ours_is_checked() -> None:
    text = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    table = text.split("[project.optional-dependencies]")[1].split("[project.scripts]")[0]
    extras = {line.split(" = ")[0] for line in table.splitlines() if " = [" in line}
    assert set(doctor.EXTRAS) | {"studio"} == extras - {"test", "docs", "all"}


def test_a_folder_that_cannot_be_written_is_a_missing_part(monkeypatch: pytest.MonkeyPatch) -> None:
    def mkdtemp(**_: object) -> str:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    (check,) = doctor_place.check_folder()
    assert (check.name, check.status) == ("run folder", "missing")
    assert check.found.endswith(f"cannot be written ({os.strerror(errno.EROFS)})")


def test_locks_that_everyone_gets_claims_and_neither_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor_place.check_lock(tmp_path / "lock").status == "ok"
    monkeypatch.setattr("pipeline.locks._lock", lambda descriptor: True)
    check = doctor_place.check_lock(tmp_path / "lock")
    assert (check.status, check.found) == ("optional", "a lock here is granted twice")

    def unsupported(descriptor: int) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("pipeline.locks._lock", unsupported)
    check = doctor_place.check_lock(tmp_path / "lock")
    assert (check.status, check.found) == ("ok", doctor_place.CLAIMED)
    check = doctor_place.check_lock(tmp_path / "nowhere" / "lock")
    assert check.status == "optional"
    assert "cannot be had on this disk" in check.found


@pytest.mark.parametrize(
    ("shift_s", "status", "found"),
    [
        (0.0, "ok", " UTC"),
        (-3600.0, "optional", "; the disk's clock differs by 3600 s"),
        (-40 * 365 * 86_400.0, "optional", " is past"),
    ],
)
def test_a_clock_that_is_wrong_is_told(
    shift_s: float, status: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = doctor_place.time.time
    monkeypatch.setattr(doctor_place.time, "time", lambda: real() + shift_s)
    check = doctor_place.check_clock(tmp_path)
    assert check.status == status
    assert found in check.found


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """The soft limits that the operating system tells; those that are not given are none."""
    resource = pytest.importorskip("resource")
    given: dict[int, int] = {}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (given.get(kind, resource.RLIM_INFINITY),) * 2)
    return given


def test_no_limits_are_all_right(limits: dict[int, int]) -> None:
    checks = list(doctor_place.check_limits())
    assert {check.status for check in checks} == {"ok"}
    assert [check.found for check in checks[:3]] == ["unlimited at once", "unlimited", "unlimited"]
    assert "with the photo in it" in checks[3].found


def test_limits_that_are_too_low_name_the_command(limits: dict[int, int]) -> None:
    import resource

    low = {resource.RLIMIT_NOFILE: 64, resource.RLIMIT_AS: 4_000_000_000, resource.RLIMIT_FSIZE: 5_000_000}
    limits.update({**low, resource.RLIMIT_CORE: 0})
    checks = list(doctor_place.check_limits())
    assert [check.status for check in checks] == ["optional"] * 3 + ["ok"]
    assert [check.found for check in checks] == ["64 at once", "4 GB", "5 MB", "none is written"]
    assert checks[0].mend == "ulimit -n 1024"
