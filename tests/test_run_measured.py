"""The measure stage in whole runs: when it runs, what it leaves, and what it never touches."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.errors import UsageError
from pipeline import measuring
from pipeline.run import run
from pipeline.schema import AlignConfig, EditConfig, MeasureConfig, RunConfig, compose
from tests.runs import PHOTO, manifest_of, run_dir, short_config, stage_entries
from tests.test_measuring import alex_trunk

INVERSION = ["align", "invert", "tune"]
REUSED = [(stage, True) for stage in INVERSION]
REGIONS = ("whole", "face", "background", "border")


@pytest.fixture(scope="module")
def measured_out(generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("measured")
    run(short_config(generator, out, measure=MeasureConfig(), stages=INVERSION))
    return out


@pytest.fixture
def measured(measured_out: Path, tmp_path: Path) -> Path:
    """A copy of the output folder of a run that was measured."""
    return Path(shutil.copytree(measured_out, tmp_path / "measured"))


def test_both_pictures_are_measured_by_region_and_size(measured: Path) -> None:
    manifest = manifest_of(run_dir(measured))
    entry = manifest["stages"][-1]
    assert (entry["stage"], entry["face"], entry["reused"]) == ("measure", 0, False)
    figures = entry["measured"]
    for stage in ("invert", "tuned"):
        for size in ("native", "256"):
            for region in REGIONS:
                assert 3 < figures[f"psnr_{region}_{size}_{stage}_db"] < 40
                assert -1 < figures[f"ssim_{region}_{size}_{stage}"] < 1
        assert 0 < figures[f"ms_ssim_256_{stage}"] < 1
        assert 0 < figures[f"face_features_{stage}"] < 3
        assert manifest["metrics"][f"psnr_{stage}_db"] == pytest.approx(figures[f"psnr_whole_native_{stage}_db"])
    assert not any(name.startswith(("lpips", "landmarks", "editability")) for name in figures)
    assert figures["psnr_whole_256_tuned_db"] > figures["psnr_whole_256_invert_db"]
    assert entry["shared_with_loss"] == []
    assert figures.items() <= manifest["metrics"].items()
    assert figures.items() <= manifest["faces"][0]["metrics"].items()
    (file,) = (run_dir(measured) / "measure").glob("*/metrics.json")
    assert json.loads(file.read_text())["measured"] == figures


def test_the_report_has_a_row_for_each_region_and_a_column_for_each_picture(measured: Path) -> None:
    page = (run_dir(measured) / "report.html").read_text(encoding="utf-8")
    figures = manifest_of(run_dir(measured))["metrics"]
    assert page.count("<h2>Likeness to the photo</h2>") == 1
    cells = [f"{figures[f'ssim_background_256_{stage}']:.3f}" for stage in ("invert", "tuned")]
    row = '<td class="text">SSIM at 256 px</td><td class="text">background</td>'
    assert row + "".join(f'<td class="number">{cell}</td>' for cell in cells) in page
    assert "PSNR at 64 px (native) [dB]" in page
    assert "LPIPS (" not in page and "<h2>Editability" not in page and " *</td>" not in page


def test_a_second_run_reuses_the_measures(measured: Path, generator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = manifest_of(run_dir(measured))["metrics"]

    def never(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(measuring, "reconstruction_metrics", never)
    run(short_config(generator, measured, measure=MeasureConfig(), stages=INVERSION))
    assert stage_entries(run_dir(measured)) == [*REUSED, ("measure", True)]
    assert manifest_of(run_dir(measured))["metrics"] == first


def test_what_is_measured_never_recomputes_what_is_measured_on(
    measured: Path, generator: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_dir(measured)
    config = short_config(generator, measured, stages=INVERSION)
    run(replace(config, measure=MeasureConfig(editability=["smile"])))
    assert stage_entries(folder) == [*REUSED, ("measure", False)]
    assert "no face is found in the reconstruction" in capsys.readouterr().err
    assert "psnr_face_256_tuned_db" in manifest_of(folder)["metrics"]
    run(replace(config, measure=MeasureConfig(metrics=False)))
    assert stage_entries(folder) == REUSED
    assert "psnr_face_256_tuned_db" not in manifest_of(folder)["metrics"]
    alex_trunk(cache)
    run(replace(config, measure=MeasureConfig()))
    assert stage_entries(folder) == [*REUSED, ("measure", False)]
    assert manifest_of(folder)["metrics"]["lpips_alex_256_tuned"] > 0
    assert "LPIPS (alex) at 256 px" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_run_that_ends_behind_the_inversion_measures_the_pivot_alone(generator: Path, tmp_path: Path) -> None:
    run(short_config(generator, tmp_path, measure=MeasureConfig(), stages=["align", "invert"]))
    manifest = manifest_of(run_dir(tmp_path))
    assert "psnr_face_256_invert_db" in manifest["metrics"]
    assert not any("tuned" in name for name in manifest["metrics"])
    run(short_config(generator, tmp_path / "only", measure=MeasureConfig(), stages=["align"]))
    assert stage_entries(run_dir(tmp_path / "only")) == [("align", False)]


def test_continued_runs_show_the_measures_that_there_are(measured: Path, out: Path, generator: Path) -> None:
    folder = run_dir(measured)
    figures = manifest_of(folder)["stages"][-1]["measured"]
    edit = EditConfig(points=[[220, 130, 235, 130]], steps=2)
    later = RunConfig(stages=["edit", "blend"], from_run=str(folder), edit=edit, threads=1, progress=False)
    run(later)
    assert stage_entries(folder) == [*REUSED, ("measure", True), ("edit", False), ("blend", False)]
    assert figures.items() <= manifest_of(folder)["metrics"].items()
    shutil.rmtree(folder / "measure")
    run(later)
    assert [stage for stage, _ in stage_entries(folder)] == [*INVERSION, "edit", "blend"]
    older = run_dir(out)
    run(replace(later, from_run=str(older)))
    assert [stage for stage, _ in stage_entries(older)] == [*INVERSION, "edit", "blend"]
    tuned = short_config(generator, out, stages=["tune"], from_run=str(older), measure=MeasureConfig())
    run(tuned)
    assert stage_entries(older) == [*REUSED, ("measure", False)]
    assert manifest_of(older)["stages"][-1]["shared_with_loss"] == ["face_distance", "face_features"]


def test_measures_of_a_tuning_that_is_replaced_are_not_inherited(measured: Path, generator: Path) -> None:
    folder = run_dir(measured)
    config = short_config(generator, measured, stages=["tune"], from_run=str(folder))
    run(replace(config, tune=replace(config.tune, steps=3)))
    assert "measure" not in manifest_of(folder)["faces"][0]["keys"]
    edit = EditConfig(points=[[220, 130, 235, 130]], steps=2)
    run(RunConfig(stages=["edit"], from_run=str(folder), edit=edit, threads=1, progress=False))
    assert [stage for stage, _ in stage_entries(folder)] == [*INVERSION, "edit"]


def test_each_of_two_faces_is_measured_and_the_means_are_over_both(generator: Path, tmp_path: Path) -> None:
    photo = cv2.imread(str(PHOTO))
    small = cv2.resize(photo, (384, 384), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(tmp_path / "two.png"), np.hstack([photo[:300], small[:300]]))
    align = AlignConfig(face="all")
    outcome = run(
        short_config(
            generator,
            tmp_path / "out",
            photo=str(tmp_path / "two.png"),
            align=align,
            stages=INVERSION,
            measure=MeasureConfig(),
        )
    )
    manifest = manifest_of(outcome.run_dir)
    first, second = (face["metrics"]["psnr_face_256_tuned_db"] for face in manifest["faces"])
    assert first != second
    assert manifest["metrics"]["psnr_face_256_tuned_db"] == pytest.approx((first + second) / 2)
    page = (outcome.run_dir / "report.html").read_text(encoding="utf-8")
    assert "<h2>Likeness to the photo, face 2</h2>" in page


def test_unknown_presets_are_refused_by_name() -> None:
    with pytest.raises(UsageError) as caught:
        compose(["measure.editability=[smile,smirk]"])
    assert str(caught.value).startswith("measure.editability holds smirk: allowed are smile, open_mouth,")
    assert compose(["measure.editability=[smile,turn_left]"]).measure.editability == ["smile", "turn_left"]
    with pytest.raises(UsageError, match=r"measure\.editability is smile: allowed is a list of names"):
        compose(["measure.editability=smile"])
