"""Experiments over folders: which photos run, what the table and the other files hold, reuse, failures, Ctrl-C."""

from __future__ import annotations

import csv
import json
import re
import shutil
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

import pipeline.run
from data.errors import UsageError
from data.files import file_sha256
from inversion.generators.checkpoint import load_generator, save_generator
from pipeline import cli, models
from pipeline.arguments import parse_arguments
from pipeline.folders import experiment_name, find_photos, natural_key, shown
from pipeline.models import Models
from pipeline.montage import sheet_shape
from pipeline.pictures import image_u8, read_picture
from pipeline.schema import GeneratorConfig
from tests.runs import PHOTO, manifest_of
from tests.tiny import tiny_generator

STEMS = ["a.jpg", "a.png", "été, b=2.png"]
"""The photos of the folder that can be inverted, in the order in which they run."""


def settings(generator: Path, out: Path, *more: str) -> list[str]:
    """Overrides of an experiment of a second or two: few steps, no perceptual term."""
    few = ["steps=6", "start_samples=4", "w_stats_samples=50", "weights.perceptual=0", "checkpoint_every=2"]
    tune = ["steps=6", "weights.perceptual=0", "checkpoint_every=2"]
    return [
        *("+experiment=inversion_only", "progress=false", "threads=1", f"out={out}", f"generator.path={generator}"),
        *(f"invert.{text}" for text in few),
        *(f"tune.{text}" for text in tune),
        *more,
    ]


def experiment_of(out: Path) -> Path:
    """The only experiment's folder of an output folder."""
    (folder,) = out.glob("experiment_*")
    return folder


def results_of(out: Path) -> dict[str, Any]:
    return json.loads((experiment_of(out) / "results.json").read_text(encoding="utf-8"))


def rows_of(out: Path) -> list[dict[str, str]]:
    with (experiment_of(out) / "results.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos, one that is broken, one without a face, and what is no photo."""
    folder = tmp_path_factory.mktemp("given") / "my, faces=1"
    (folder / "deeper").mkdir(parents=True)
    small = cv2.resize(cv2.imread(str(PHOTO)), (256, 256), interpolation=cv2.INTER_AREA)
    for name, picture in (("a.png", small), ("a.jpg", small), ("b.png", small[:, ::-1])):
        assert cv2.imwrite(str(folder / name), picture)
    (folder / "b.png").rename(folder / "été, b=2.png")
    cv2.imwrite(str(folder / "z10.png"), np.full((64, 64, 3), 90, np.uint8))
    (folder / "z2.jpg").write_bytes((folder / "a.jpg").read_bytes()[:900])
    (folder / ".hidden.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "notes.txt").write_text("no photo")
    shutil.copy(folder / "a.png", folder / "deeper" / "c.png")
    return folder


@dataclass
class Done:
    """A finished experiment: where it is, how it ended, what was printed and how often a generator was read."""

    out: Path
    words: list[str]
    code: int
    printed: str
    warned: str
    reads: int


@pytest.fixture(scope="module")
def counted(photos: Path, generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The folder's experiment, made once for the tests that only look."""
    out = tmp_path_factory.mktemp("out")
    words = [str(photos), *settings(generator, out)]
    reads = []
    with pytest.MonkeyPatch.context() as patch, pytest.MonkeyPatch.context() as captured:
        read = models.read_generator
        patch.setattr(models, "read_generator", lambda *given: reads.append(1) or read(*given))
        lines = _Lines(captured)
        code = cli.main(words)
    return Done(out, words, code, "\n".join(lines.out), "\n".join(lines.err), len(reads))


class _Lines:
    """What a run prints while a fixture of a module runs it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.out: list[str] = []
        self.err: list[str] = []
        patch.setattr("pipeline.progress.Console.warn", lambda _, line: self.err.append(line))
        patch.setattr("pipeline.progress.Console.say", lambda console, line: console.quiet or self.out.append(line))


def test_folders_are_read_as_people_count_and_other_files_are_skipped(photos: Path) -> None:
    found = find_photos([str(photos)])
    assert [path.name for path in found.photos] == [*STEMS[:2], "z2.jpg", "z10.png", STEMS[2]]
    assert sorted(found.skipped) == [".hidden.png", "deeper", "notes.txt"]
    names = ["b", "a10", "A2", "a1", "a02", "10", "9"]
    assert sorted(names, key=natural_key) == ["9", "10", "a1", "A2", "a02", "a10", "b"]
    several = find_photos([str(photos / "z2.jpg"), str(photos / "a.png")])
    assert [path.name for path in several.photos] == ["z2.jpg", "a.png"]


def test_a_folder_without_photos_says_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no photo, but nothing: allowed are \.jpg, .* directly in it"):
        find_photos([str(tmp_path)])
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="holds no photo, but 1 other entries"):
        find_photos([str(tmp_path)])
    with pytest.raises(UsageError, match="nowhere, which does not exist: allowed are paths of photos and of folders"):
        find_photos(["nowhere"])


def test_words_of_the_command_line_that_mean_many_photos(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    for words in (["my, faces=1"], ["run", "photo=my, faces=1"], ["--", "my, faces=1"]):
        command = parse_arguments([*words[:1], "edit=smile", *words[1:]] if words[0] == "run" else words)
        assert command.photos == ("my, faces=1",)
        assert not any(text.startswith("photo=") for text in command.overrides)
    monkeypatch.chdir(photos)
    command = parse_arguments(["a.jpg", "a.png", "-m", "seed=1,2"])
    assert (command.photos, command.overrides, command.multirun) == (("a.jpg", "a.png"), ("seed=1,2",), True)
    assert parse_arguments(["a.jpg", "seed=1"]).photos == ()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["from=."], "from is ., the run of one photo, and 5 photos are given: leave out from;"),
        (["stages=[sample]"], "stages begins with sample and 5 photos are given: begin with align"),
        (["edit=drag", "stages=[align,invert,tune,edit]"], "edit.points is empty and edit.preset is null"),
        (["invert.steps=0"], "invert.steps is 0: allowed is a whole number"),
        (["generator.path=none.pkl"], "generator.path is none.pkl, which does not exist"),
    ],
)
def test_what_no_photo_could_be_run_with_stops_at_the_start(
    more: list[str], sentence: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main([str(photos), "+experiment=inversion_only", f"out={out}", *more]) == 2
    assert capsys.readouterr().err.startswith(f"photodrag: {sentence}")
    assert not out.exists()


def test_every_photo_is_run_and_failures_are_told_in_the_table(counted: Done) -> None:
    assert counted.code == 1
    assert counted.reads == 1
    lines = counted.printed.splitlines()
    assert lines[0].startswith("perceptual: ")
    assert [line.split(":")[0] for line in lines[1:]] == ["[1/5] a.jpg", "[2/5] a.png", "[5/5] été, b=2.png"]
    assert re.fullmatch(r"\[1/5\] a\.jpg: done, [\d.]+ s, psnr_tuned_db [\d.]+", lines[1])
    assert "[3/5] z2.jpg: failed: The photo 'z2.jpg' is damaged or incomplete" in counted.warned
    assert "[4/5] z10.png: failed: No face was found in the photo of 64 x 64 pixels" in counted.warned
    rows = rows_of(counted.out)
    assert [(row["photo"], row["status"]) for row in rows] == [
        *(("a.jpg", "done"), ("a.png", "done"), ("z2.jpg", "failed"), ("z10.png", "failed"), (STEMS[2], "done")),
    ]
    assert rows[2]["error"].startswith("The photo 'z2.jpg' is damaged")
    assert rows[2]["psnr_tuned_db"] == rows[2]["run"] == ""


def test_the_table_is_what_the_manifests_say(counted: Done, photos: Path) -> None:
    document, rows = results_of(counted.out), rows_of(counted.out)
    assert (document["complete"], document["swept"]) == (True, [])
    assert document["given"] == [str(photos)]
    assert list(rows[0]) == document["columns"]
    for text, row in zip(rows, document["rows"], strict=True):
        assert text == {name: _cell(row.get(name)) for name in document["columns"]}
        assert row["sha256"] == file_sha256(photos / row["photo"])
        if row["status"] == "failed":
            continue
        manifest = manifest_of(experiment_of(counted.out) / row["run"])
        assert manifest["photo"]["name"] == row["photo"]
        metrics = manifest["faces"][0]["metrics"]
        assert len(metrics) >= 4
        assert {name: row[name] for name in metrics} == metrics
        for entry in manifest["stages"][1:]:
            stage = entry["stage"]
            if stage not in ("invert", "tune", "edit"):
                continue
            assert row[f"{stage}_steps"] == entry["steps"] == 6
            assert row[f"{stage}_seconds"] == entry["computed_seconds"]
            assert row[f"{stage}_stop_reason"] == entry["stop_reason"]
        assert row["generator_sha256"] == manifest["hashes"]["generator"]
        assert "invert.steps=6" in row["overrides"]
        assert "out=" not in row["overrides"]


def _cell(value: Any) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def test_the_summary_is_of_the_faces_that_are_done(counted: Done) -> None:
    rows = [row for row in results_of(counted.out)["rows"] if row["status"] == "done"]
    (entry,) = json.loads((experiment_of(counted.out) / "summary.json").read_text(encoding="utf-8"))
    assert (entry["swept"], entry["faces"], entry["failed"]) == ({}, 3, 2)
    values = [row["psnr_tuned_db"] for row in rows]
    found = entry["measures"]["psnr_tuned_db"]
    assert found["mean"] == pytest.approx(np.mean(values))
    assert found["median"] == statistics.median(values)
    assert found["sd"] == pytest.approx(np.std(values, ddof=1))
    assert (found["min"], found["max"], found["count"]) == (min(values), max(values), 3)
    assert {"invert_steps", "tune_seconds"} <= set(entry["measures"])
    assert not {"face", "photo", "status"} & set(entry["measures"])
    with (experiment_of(counted.out) / "summary.csv").open(encoding="utf-8", newline="") as stream:
        lines = {row["measure"]: row for row in csv.DictReader(stream)}
    assert float(lines["psnr_tuned_db"]["mean"]) == found["mean"]


def test_equal_stems_keep_apart_and_every_photo_has_its_own_run(counted: Done) -> None:
    runs = sorted(path.name for path in counted.out.iterdir() if not path.name.startswith("experiment_"))
    assert [re.sub(r"_[0-9a-f]{8}$", "", name) for name in runs] == ["a", "a", "z10", "été, b=2"]
    folder = experiment_of(counted.out)
    assert folder.name.startswith("experiment_my, faces=1_")
    latents = {path.name for path in (folder / "latents").iterdir()}
    kept = [name for name in runs if not name.startswith("z10")]
    assert latents == {f"{name}{suffix}" for name in kept for suffix in (".npy", ".pt", ".safetensors")}


def test_a_latent_is_the_same_in_three_formats_and_draws_the_same_picture(counted: Done, generator: Path) -> None:
    module, sha256 = load_generator(generator)
    folder = experiment_of(counted.out)
    for row in [row for row in results_of(counted.out)["rows"] if row["status"] == "done"]:
        run = folder / row["run"]
        name = folder / "latents" / Path(row["run"]).name
        w = np.load(f"{name}.npy", allow_pickle=False)
        loaded = torch.load(f"{name}.pt", weights_only=True)
        tensors = safetensors.torch.load_file(f"{name}.safetensors")
        assert (w.dtype, w.shape) == (np.float32, (module.num_ws, module.w_dim))
        assert np.array_equal(loaded["w"].numpy(), w)
        assert np.array_equal(tensors.pop("w").numpy(), w)
        assert {f"noise/{key}" for key in loaded["noise"]} == set(tensors) != set()
        assert all(torch.equal(value, tensors[f"noise/{key}"]) for key, value in loaded["noise"].items())
        with safetensors.safe_open(f"{name}.safetensors", "pt") as file:
            assert file.metadata() == loaded["metadata"]
        assert loaded["metadata"]["photo_sha256"] == row["sha256"]
        assert loaded["metadata"]["generator_sha256"] == sha256
        with torch.no_grad():
            image = module.synthesize(torch.from_numpy(w)[None], "const", loaded["noise"])
        (stage,) = (run / "invert").iterdir()
        assert np.array_equal(image_u8(image), read_picture((stage / "reconstruction.png").read_bytes())[0])
        for suffix in (".npy", ".pt", ".safetensors"):
            assert (run / f"latent{suffix}").is_file()
        assert np.array_equal(np.load(run / "latent.npy"), w)


def test_the_report_holds_its_pictures_and_links_to_runs_that_are_there(counted: Done) -> None:
    folder = experiment_of(counted.out)
    page = (folder / "report.html").read_text(encoding="utf-8")
    links = [unquote(link) for link in re.findall(r'href="([^"]*)"', page)]
    assert len([link for link in links if link.endswith("/report.html")]) == 3
    assert all((folder / link).exists() for link in links)
    assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]*)"', page))
    assert page.count("data:image/") == 2
    assert "5 results, 2 failed, 3 other files skipped" in page
    assert "z10.png: No face was found" in page
    assert not re.search(r"https?://", page)


def test_a_second_call_computes_nothing_and_gives_the_same_table(
    counted: Done, tmp_path: Path, generator: Path
) -> None:
    out = Path(shutil.copytree(counted.out, tmp_path / "out"))
    first = results_of(out)
    assert cli.main([counted.words[0], *settings(generator, out)]) == 1
    second = results_of(out)
    for row in second["rows"]:
        if row["status"] == "done":
            manifest = manifest_of(experiment_of(out) / row["run"])
            assert all(entry["reused"] for entry in manifest["stages"]) and len(manifest["stages"]) >= 3
    assert second["rows"] == first["rows"]
    assert second["summary"] == first["summary"]


def test_another_setting_is_another_experiment_and_another_place_is_not() -> None:
    first = experiment_name(["faces"], ["seed=1", "out=a", "progress=false"])
    assert first == experiment_name(["./faces"], ["threads=2", "out=b", "seed=1"])
    assert first != experiment_name(["faces"], ["seed=2"])
    assert first != experiment_name(["other/faces"], ["seed=1"])
    assert experiment_name(["a.jpg", "b.jpg"], []).startswith("experiment_photos_")


def test_ctrl_c_keeps_what_is_done_and_the_next_call_does_the_rest(
    photos: Path, generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pipeline.run.run
    words = [str(photos / "a.jpg"), str(photos / "a.png"), *settings(generator, tmp_path)]
    done = []

    def interrupted(*given: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return real(*given)

    monkeypatch.setattr(pipeline.run, "run", interrupted)
    assert cli.main(words) == 130
    document = results_of(tmp_path)
    assert (document["complete"], [row["photo"] for row in document["rows"]]) == (False, ["a.jpg"])
    monkeypatch.setattr(pipeline.run, "run", real)
    assert cli.main(words) == 0
    document = results_of(tmp_path)
    assert (document["complete"], [row["photo"] for row in document["rows"]]) == (True, ["a.jpg", "a.png"])
    assert manifest_of(experiment_of(tmp_path) / document["rows"][0]["run"])["stages"][1]["reused"]
    monkeypatch.setattr(pipeline.run, "run", interrupted)
    assert cli.main(words) == 130
    assert results_of(tmp_path)["complete"]


def test_an_unforeseen_error_is_a_row_and_a_full_disk_stops(
    photos: Path, generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def raising(error: Exception) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            raise error

        return run

    words = [str(photos / "a.jpg"), str(photos / "a.png"), *settings(generator, tmp_path)]
    monkeypatch.setattr(pipeline.run, "run", raising(ValueError("odd")))
    assert cli.main(words) == 1
    assert [row["error"] for row in rows_of(tmp_path)] == [
        "ValueError: odd (unforeseen; --debug shows where it happened)."
    ] * 2
    capsys.readouterr()
    monkeypatch.setattr(pipeline.run, "run", raising(pipeline.run.OutputError("No space is left.")))
    assert cli.main(words) == 1
    assert capsys.readouterr().err == "photodrag: No space is left.\n"


def test_a_sweep_over_photos_has_a_row_for_each_job_and_a_group_for_each_value(
    photos: Path, generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(photos / "a.jpg"), str(photos / "z2.jpg"), "-m", *settings(generator, tmp_path), "tune.steps=2,4"]
    assert cli.main([word for word in words if word != "tune.steps=6"]) == 1
    document = results_of(tmp_path)
    assert document["swept"] == ["tune.steps"]
    assert [(row["photo"], row["job"], row["tune.steps"], row["status"]) for row in document["rows"]] == [
        ("a.jpg", 0, "2", "done"),
        ("z2.jpg", 0, "2", "failed"),
        ("a.jpg", 1, "4", "done"),
        ("z2.jpg", 1, "4", "failed"),
    ]
    assert [row.get("tune_steps") for row in document["rows"]] == [2, None, 4, None]
    assert [entry["swept"] for entry in document["summary"]] == [{"tune.steps": "2"}, {"tune.steps": "4"}]
    assert document["summary"][1]["measures"]["tune_steps"]["mean"] == 4
    assert [Path(row["run"]).name for row in document["rows"] if row["run"]] == ["0", "1"]
    assert len(list((experiment_of(tmp_path) / "latents").glob("a_*_job?.npy"))) == 2
    assert capsys.readouterr().out.endswith("2 jobs, 2 failed\n")


def test_a_sweep_of_one_photo_has_the_same_table(photos: Path, generator: Path, tmp_path: Path) -> None:
    words = [str(photos / "a.jpg"), "-m", *settings(generator, tmp_path), "seed=0,1"]
    assert cli.main(words) == 0
    rows = results_of(tmp_path)["rows"]
    assert [(row["photo"], row["seed"], row["status"]) for row in rows] == [
        ("a.jpg", "0", "done"),
        ("a.jpg", "1", "done"),
    ]
    assert rows[0]["psnr_tuned_db"] != rows[1]["psnr_tuned_db"]


def test_every_face_of_a_photo_is_a_row_with_a_latent_of_its_own(generator: Path, tmp_path: Path) -> None:
    photo = cv2.resize(cv2.imread(str(PHOTO)), (320, 320), interpolation=cv2.INTER_AREA)
    (tmp_path / "given").mkdir()
    cv2.imwrite(str(tmp_path / "given" / "two.png"), np.hstack([photo, photo[:, ::-1]]))
    out = tmp_path / "out"
    assert cli.main([str(tmp_path / "given"), *settings(generator, out, "align.face=all")]) == 0
    rows = results_of(out)["rows"]
    assert [(row["photo"], row["face"]) for row in rows] == [("two.png", 1), ("two.png", 2)]
    assert rows[0]["psnr_tuned_db"] != rows[1]["psnr_tuned_db"]
    folder, name = experiment_of(out), Path(rows[0]["run"]).name
    first, second = (np.load(folder / "latents" / f"{name}{whose}.npy") for whose in ("", "_face2"))
    assert not np.array_equal(first, second)
    assert read_picture((folder / "montage.png").read_bytes())[0].shape == sheet_shape(2)


def test_networks_are_read_again_when_their_file_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    config, cpu = GeneratorConfig(name="file", path=str(path)), torch.device("cpu")
    save_generator(tiny_generator(resolution=16, channels=4, w_dim=8), path)
    kept = Models()
    first = kept.generator(config, cpu)
    assert kept.generator(config, cpu) is first
    assert first.sha256 == file_sha256(path)
    save_generator(tiny_generator(resolution=16, channels=4, w_dim=8, seed=1), path)
    second = kept.generator(config, cpu)
    assert second is not first
    assert second.sha256 == file_sha256(path) != first.sha256
    assert kept.face_network(cpu) is kept.face_network(cpu)


def test_names_that_are_no_unicode_are_shown_with_escapes() -> None:
    assert shown("caf\udce9.jpg") == "caf\\xe9.jpg"
    assert shown("été 日本.jpg") == "été 日本.jpg"
