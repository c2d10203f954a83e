"""The table of `photodrag doctor`: what is there, what each missing part would give, and the exit code."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest

from data.errors import ModelError
from data.files import file_sha256
from inversion.generators.checkpoint import save_generator
from inversion.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from inversion.perceptual import BACKBONE_FILES
from pipeline import doctor
from pipeline.doctor import BACKBONES, Check, check_backbones, check_cache, check_package, format_check
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
    statuses: tuple[doctor.Status, ...],
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
    monkeypatch.setattr(doctor, "NEEDED_DISK_GB", 1e9)
    found = rows(doctor.check_machine())
    assert (found["memory"].status, found["memory"].found) == ("optional", "1.5 GB available")
    assert found["disk"].status == "missing"
