"""Whole runs on a tiny generator: products, manifest, reuse, options, and what the user is told."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from data.errors import ModelError, PhotoError, UsageError
from data.files import file_sha256
from data.photo import read_photo
from pipeline import models
from pipeline.models import choose_perceptual
from pipeline.run import run
from pipeline.schema import (
    BlendConfig,
    EditConfig,
    GeneratorConfig,
    JobInfo,
    PerceptualConfig,
    RunConfig,
)
from pipeline.video import read_video
from tests.runs import CHAIN, PHOTO, POINTS, manifest_of, run_dir, short_config, stage_entries

ROOT = Path(__file__).resolve().parents[1]


def test_whole_chain_leaves_everything_that_a_run_folder_holds(
    generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = run(short_config(generator, tmp_path))
    folder = tmp_path / "astronaut_2418889d"
    assert outcome.run_dir == folder
    assert outcome.results == [folder / "result.png"]
    assert outcome.report == folder / "report.html"
    assert outcome.failures == []
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *CHAIN,
        *("manifest.json", "report.html", "result.png", "before_after.png", "edit.mp4"),
        *("crop.png", "reconstruction.png", "edited.png", "edits.json", "mask.png", "curves.png"),
        *("latent.npy", "latent.pt", "latent.safetensors"),
        *("astronaut_edited.png", "astronaut_edited.png.photodrag.json"),
    }
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].startswith("perceptual: face (")
    assert [line.split(":")[0] for line in lines[1:]] == ["align", *(f"{s}, face 1" for s in CHAIN[1:4]), "blend"]
    assert re.fullmatch(r"invert, face 1: [\d.]+ s, cap after 6 steps, psnr_invert_db [\d.]+, face_.*", lines[2])
    assert printed.err == ""
    frames = read_video(folder / "edit.mp4")
    assert len(frames) == 6
    assert frames[0].shape == (256, 256, 3)


def test_manifest_tells_what_was_used_and_what_came_out(out: Path, generator: Path) -> None:
    manifest = manifest_of(run_dir(out))
    assert (manifest["status"], manifest["error"], manifest["result"]) == ("done", None, "result.png")
    assert manifest["config"]["invert"]["steps"] == 6
    assert manifest["seeds"] == {"seed": 0, "sample": 0}
    assert manifest["hashes"] == {
        "photo": file_sha256(PHOTO),
        "generator": file_sha256(generator),
    }
    assert set(manifest["versions"]) >= {"photodrag", "python", "torch", "numpy", "opencv", "dlib"}
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["perceptual"]["name"] == "face"
    assert set(manifest["timings"]) == set(CHAIN)
    assert manifest["peak_memory_bytes"] > 50_000_000
    assert manifest["stop_reasons"]["invert"] == ["cap"]
    assert manifest["stop_reasons"]["edit"][0] in ("arrived", "cap", "stalled", "lost")
    metrics = manifest["metrics"]
    assert set(metrics) == {
        *("psnr_invert_db", "face_distance_invert", "psnr_tuned_db", "face_distance_tuned"),
        *("drag_distance_before_px", "drag_distance_after_px"),
    }
    assert metrics["psnr_tuned_db"] > metrics["psnr_invert_db"]
    assert metrics["drag_distance_after_px"] < metrics["drag_distance_before_px"]
    assert manifest["faces"][0]["metrics"] == metrics
    assert len(manifest["faces"][0]["quad"]) == 4


def test_pixels_outside_the_mask_are_the_photos_and_some_inside_changed(out: Path) -> None:
    folder = run_dir(out)
    before, after = read_photo(PHOTO), read_photo(folder / "result.png")
    mask = cv2.imread(str(folder / "mask.png"), cv2.IMREAD_GRAYSCALE)
    changed = (before.pixels != after.pixels).any(axis=2)
    assert changed.sum() > 100
    assert mask[changed].min() > 0
    assert changed[mask == 0].sum() == 0
    assert manifest_of(folder)["stages"][-1]["changed_fraction"] == pytest.approx(changed.mean())
    assert b"compositeWithTrainedAlgorithmicMedia" in (folder / "result.png").read_bytes()


def test_second_call_reuses_every_stage_and_keeps_the_first_manifest(out: Path, generator: Path) -> None:
    folder = run_dir(out)
    first, result = manifest_of(folder), (folder / "result.png").read_bytes()
    (folder / "result.png").unlink()
    run(short_config(generator, out, progress=True))
    assert stage_entries(folder) == [(stage, True) for stage in CHAIN]
    assert (folder / "result.png").read_bytes() == result
    second = manifest_of(folder)
    assert second["metrics"] == first["metrics"]
    assert second["stages"][1]["computed_seconds"] == first["stages"][1]["seconds"]
    kept = sorted(path.name for path in (folder / "manifests").iterdir())
    assert kept == [f"{first['run_id']}.html", f"{first['run_id']}.json"]


def test_second_drag_starts_at_the_edit_and_loses_nothing_of_the_first(out: Path, generator: Path) -> None:
    folder = run_dir(out)
    (first,) = (folder / "blend").iterdir()
    first_result = (folder / "result.png").read_bytes()
    edit = EditConfig(points=[[225, 120, 225, 140]], steps=4, lr=0.05)
    run(short_config(generator, out, edit=edit))
    expected = [("align", True), ("invert", True), ("tune", True), ("edit", False), ("blend", False)]
    assert stage_entries(folder) == expected
    assert (first / "result.png").read_bytes() == first_result
    assert (folder / "result.png").read_bytes() != first_result
    assert len(list((folder / "edit").iterdir())) == 2


@pytest.mark.parametrize(
    ("changes", "recomputed"),
    [
        ({"seed": 1}, ["invert", "tune", "edit", "blend"]),
        ({"blend": BlendConfig(feather=0.1)}, ["blend"]),
        ({"resume": False}, CHAIN),
        ({"device": "cpu", "progress": True}, []),
    ],
)
def test_only_what_depends_on_a_setting_is_computed_again(
    out: Path, generator: Path, changes: dict[str, Any], recomputed: list[str]
) -> None:
    run(short_config(generator, out, **changes))
    assert [stage for stage, reused in stage_entries(run_dir(out)) if not reused] == recomputed


def test_checkpoint_interval_is_no_part_of_the_key(out: Path, generator: Path) -> None:
    config = short_config(generator, out)
    run(replace(config, invert=replace(config.invert, checkpoint_every=5)))
    assert all(reused for _, reused in stage_entries(run_dir(out)))


def test_null_drag_gives_back_the_photos_pixels(out: Path, generator: Path) -> None:
    run(short_config(generator, out, edit=EditConfig(points=[[220, 130, 220, 130]], steps=4)))
    assert np.array_equal(read_photo(run_dir(out) / "result.png").pixels, read_photo(PHOTO).pixels)


@pytest.mark.parametrize(
    ("stages", "results", "absent"),
    [
        (["align"], ["crop.png"], ["result.png", "edit.mp4", "reconstruction.png", "edited.png", "before_after.png"]),
        (["align", "invert"], ["reconstruction.png"], ["result.png", "edit.mp4", "edited.png"]),
        (["align", "invert", "tune"], ["reconstruction.png"], ["result.png", "edit.mp4", "edited.png"]),
        (["align", "invert", "tune", "edit"], ["edited.png"], ["result.png", "mask.png"]),
    ],
)
def test_a_prefix_ends_with_its_own_picture_and_clears_older_products(
    out: Path, generator: Path, stages: list[str], results: list[str], absent: list[str]
) -> None:
    outcome = run(short_config(generator, out, stages=stages))
    folder = run_dir(out)
    assert outcome.results == [folder / name for name in results]
    assert stage_entries(folder) == [(stage, True) for stage in stages]
    assert not any((folder / name).exists() for name in absent)
    assert (next((folder / "blend").iterdir()) / "result.png").is_file()


def test_reconstruction_is_that_of_the_last_stage(out: Path, generator: Path) -> None:
    folder = run_dir(out)
    for stages in (["align", "invert"], ["align", "invert", "tune"]):
        run(short_config(generator, out, stages=stages))
        (stage,) = (folder / stages[-1]).iterdir()
        assert (folder / "reconstruction.png").read_bytes() == (stage / "reconstruction.png").read_bytes()


def test_sweep_jobs_share_stages_and_have_their_own_products(out: Path, generator: Path) -> None:
    store = run_dir(out)
    for number, feather in enumerate((0.04, 0.1)):
        job = JobInfo("2026-01-02_03-04-05", number, (f"blend.feather={feather}",))
        outcome = run(short_config(generator, out, blend=BlendConfig(feather=feather)), job)
        folder = store / "sweep" / "2026-01-02_03-04-05" / str(number)
        assert outcome.run_dir == folder
        assert outcome.results == [folder / "result.png"]
        assert manifest_of(folder)["job"]["overrides"] == [f"blend.feather={feather}"]
        assert stage_entries(folder) == [*((stage, True) for stage in CHAIN[:-1]), ("blend", number == 0)]
    continued = RunConfig(stages=["blend"], from_run=str(folder), progress=False)
    assert run(continued).run_dir == store


def test_points_outside_are_refused_before_the_inversion(generator: Path, tmp_path: Path) -> None:
    for points, words in (
        ([[10, 500, 20, 500]], r"The handle \(10, 500\) .* outside the crop .* align.face=all"),
        ([[220, 130, 500, 500]], r"The target of pair 1 .* outside the aligned crop"),
    ):
        with pytest.raises(UsageError, match=words):
            run(short_config(generator, tmp_path, edit=EditConfig(points=points)))
    folder = run_dir(tmp_path)
    assert not (folder / "invert").exists()
    assert manifest_of(folder)["status"] == "failed"
    assert "outside the aligned crop" in manifest_of(folder)["error"]


def test_masks_limit_the_change_and_are_checked_at_the_start(out: Path, generator: Path, tmp_path: Path) -> None:
    mask = np.zeros((512, 512), np.uint8)
    mask[:, :224] = 255
    path, small = tmp_path / "mask.png", tmp_path / "small.png"
    cv2.imwrite(str(path), mask)
    cv2.imwrite(str(small), mask[:100])
    before = read_photo(PHOTO).pixels
    for changes in (
        {"blend": BlendConfig(mask=str(path))},
        {"edit": EditConfig(points=POINTS, steps=8, lr=0.05, mask=str(path))},
    ):
        result = read_photo(run(short_config(generator, out, **changes)).results[0]).pixels
        assert np.array_equal(result[:, 224:], before[:, 224:])
        assert not np.array_equal(result[:, :224], before[:, :224])
    with pytest.raises(UsageError, match=r"small\.png"):
        run(short_config(generator, tmp_path / "new", blend=BlendConfig(mask=str(small))))
    assert not (tmp_path / "new").exists()


def test_result_takes_the_asked_format_and_impossible_ones_stop_at_once(
    out: Path, generator: Path, tmp_path: Path
) -> None:
    outcome = run(short_config(generator, out, blend=BlendConfig(format="jpeg")))
    assert outcome.results == [outcome.run_dir / "result.jpg"]
    assert read_photo(outcome.results[0]).format == "JPEG"
    assert not (outcome.run_dir / "result.png").exists()
    clear = tmp_path / "clear.png"
    cv2.imwrite(str(clear), cv2.cvtColor(cv2.imread(str(PHOTO)), cv2.COLOR_BGR2BGRA))
    with pytest.raises(PhotoError, match="JPEG cannot hold the transparency"):
        run(short_config(generator, tmp_path / "new", photo=str(clear), blend=BlendConfig(format="jpeg")))
    assert not (tmp_path / "new").exists()


def test_a_heic_photo_leaves_as_png_and_the_run_says_so(
    generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    photo = tmp_path / "IMG_7.HEIC"
    with Image.open(PHOTO) as image:
        pillow_heif.from_pillow(image.convert("RGB")).save(photo, quality=-1, chroma=444, matrix_coefficients=0)
    outcome = run(short_config(generator, tmp_path / "out", photo=str(photo)))
    assert [result.name for result in outcome.results] == ["result.png"]
    note = (
        "HEIF is read but not written: the result is a PNG of 8 bits without loss; "
        "blend.format=jpeg makes a smaller file."
    )
    assert capsys.readouterr().out.splitlines()[1] == note
    before, after = read_photo(photo), read_photo(outcome.results[0])
    outside = np.asarray(Image.open(outcome.run_dir / "mask.png")) == 0
    assert np.array_equal(after.pixels[outside], before.pixels[outside])


def test_perceptual_distance_is_chosen_by_what_is_on_the_machine(tmp_path: Path) -> None:
    auto = PerceptualConfig("auto", str(tmp_path))
    assert choose_perceptual(auto).name == "face"
    assert str(tmp_path / "vgg16-397923af.pth") in choose_perceptual(auto).reason
    with pytest.raises(ModelError, match=r"perceptual=lpips_alex needs .* which is not there"):
        choose_perceptual(PerceptualConfig("lpips_alex", str(tmp_path)))
    (tmp_path / "vgg16-397923af.pth").write_bytes(b"")
    assert choose_perceptual(auto).name == "lpips_vgg"
    assert choose_perceptual(PerceptualConfig("face", str(tmp_path))).name == "face"


def test_missing_backbone_stops_the_run_before_it_writes(generator: Path, tmp_path: Path) -> None:
    perceptual = PerceptualConfig("lpips_squeeze", str(tmp_path))
    with pytest.raises(ModelError, match="perceptual=lpips_squeeze needs"):
        run(short_config(generator, tmp_path / "out", perceptual=perceptual))
    assert not (tmp_path / "out").exists()


def test_missing_generator_is_one_sentence(generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = GeneratorConfig(name="file", path=str(tmp_path / "none.safetensors"))
    with pytest.raises(ModelError, match="There is no generator file at"):
        run(short_config(generator, tmp_path / "out", generator=missing))
    monkeypatch.setattr(models.resources, "files", lambda _: tmp_path)
    with pytest.raises(ModelError, match="This installation has no embedded generator"):
        run(short_config(generator, tmp_path / "out", generator=GeneratorConfig()))


def test_progress_bars_name_the_stage_and_the_loss(
    generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(short_config(generator, tmp_path, progress=True))
    printed = capsys.readouterr().err
    for stage in ("invert", "tune", "edit"):
        assert f"{stage}: 100%" in printed or f"{stage}: " in printed
    assert "loss=" in printed


def test_odd_photo_names_become_folder_names(generator: Path, tmp_path: Path) -> None:
    photo = tmp_path / f"a=b, [ü] ${{x}} {'n' * 80}.png"
    shutil.copy(PHOTO, photo)
    outcome = run(short_config(generator, tmp_path / "out", photo=str(photo), stages=["align"]))
    assert outcome.run_dir.name == f"{photo.stem[:60]}_2418889d"


def test_run_is_imported_without_hydra() -> None:
    code = "import sys, pipeline.run; print({'hydra', 'omegaconf'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
