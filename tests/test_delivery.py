"""Where a result is saved: names, what is there already, files that are read, disks that refuse."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from data.errors import OutputError, UsageError
from pipeline import delivery
from pipeline.batch import Batch
from pipeline.delivery import Deliveries, Destination, Inputs, deliver, edited_name, plan, recipe_path
from pipeline.folders import RECIPE_SUFFIX, find_photos
from pipeline.schema import BlendConfig, RunConfig, check_runnable, compose
from pipeline.table import JobValues
from tests.runs import PHOTO, manifest_of, run_dir, short_config


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photos" / "me.jpg"
    path.parent.mkdir()
    path.write_bytes(b"the photo")
    return path


def planned(photo: Path, save: str, deliveries: Deliveries | None = None, **changes: Any) -> Destination:
    config = RunConfig(photo=str(photo), save=save, **changes)
    destination = plan(config, photo, "JPEG", photo.parent / "runs" / "me_1", deliveries or Deliveries())
    assert destination is not None
    return destination


def saved(destination: Destination, content: bytes = b"new") -> Path | None:
    return deliver(content, ".jpg", lambda name: f"recipe of {name}".encode(), destination)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_beside_the_photo_with_its_recipe_and_then_with_a_number(photo: Path) -> None:
    first, second = (saved(planned(photo, "beside"), content) for content in (b"one", b"two"))
    assert (first, second) == (photo.parent / "me_edited.jpg", photo.parent / "me_edited-2.jpg")
    assert (first.read_bytes(), second.read_bytes()) == (b"one", b"two")
    assert recipe_path(second).read_text() == "recipe of me_edited-2.jpg"
    assert names(photo.parent) == sorted(
        ["me.jpg", *(f"me_edited{n}.jpg{end}" for n in ("", "-2") for end in ("", ".photodrag.json"))]
    )


@pytest.mark.parametrize("there", ["me_edited.jpg", "me_edited.jpg.photodrag.json"])
def test_skip_writes_nothing_and_overwrite_replaces(photo: Path, there: str) -> None:
    (photo.parent / there).write_bytes(b"old")
    before = names(photo.parent)
    assert saved(planned(photo, "beside", on_exists="skip")) is None
    assert names(photo.parent) == before
    assert (photo.parent / there).read_bytes() == b"old"
    assert saved(planned(photo, "beside", on_exists="overwrite")) == photo.parent / "me_edited.jpg"
    assert (photo.parent / "me_edited.jpg").read_bytes() == b"new"
    assert (photo.parent / "me_edited.jpg.photodrag.json").read_bytes() == b"recipe of me_edited.jpg"


def test_a_file_a_folder_and_a_folder_that_is_made(photo: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    assert saved(planned(photo, str(there / "best.JPG"))) == there / "best.JPG"
    assert saved(planned(photo, str(there / "best.JPG"))) == there / "best-2.JPG"
    assert saved(planned(photo, str(there))) == there / "me_edited.jpg"
    assert saved(planned(photo, f"{tmp_path}/new/one/")) == tmp_path / "new" / "one" / "me_edited.jpg"


@pytest.mark.parametrize("on_exists", ["suffix", "skip", "overwrite"])
@pytest.mark.parametrize("way", ["itself", "symlink", "hardlink", "dots", "case", "folder link"])
def test_the_photo_is_never_written_to(photo: Path, tmp_path: Path, way: str, on_exists: str) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "link").symlink_to(photo.parent)
    given = {
        "itself": photo,
        "symlink": other / "soft.jpg",
        "hardlink": other / "hard.jpg",
        "dots": other / ".." / "photos" / "me.jpg",
        "case": photo.parent / "ME.Jpg",
        "folder link": tmp_path / "link" / "me.jpg",
    }[way]
    if way == "symlink":
        given.symlink_to(photo)
    elif way == "hardlink":
        given.hardlink_to(photo)
    with pytest.raises(UsageError, match="which is a file that this command reads"):
        planned(photo, str(given), on_exists=on_exists)
    assert photo.read_bytes() == b"the photo"


def test_other_files_that_are_read_are_not_replaced(photo: Path) -> None:
    """A mask of the run, another photo of the call, and a recipe that is replayed, even when it is put there later."""
    mask = photo.parent / "me_edited.jpg"
    mask.write_bytes(b"mask")
    with pytest.raises(UsageError, match=r"save would write .*me_edited\.jpg, which is a file that this command reads"):
        planned(photo, "beside", blend=BlendConfig(mask=str(mask)), on_exists="overwrite")
    both = Deliveries(Inputs([photo, mask]))
    with pytest.raises(UsageError, match="save would write"):
        planned(photo, "beside", both, on_exists="overwrite")
    assert saved(planned(photo, "beside", both)) == photo.parent / "me_edited-2.jpg"
    recipe = Deliveries(Inputs([recipe_path(photo.parent / "best.jpg")]))
    with pytest.raises(UsageError, match=r"save would write .*best\.jpg\.photodrag\.json"):
        planned(photo, str(photo.parent / "best.jpg"), recipe, on_exists="overwrite")
    assert mask.read_bytes() == b"mask"


def test_one_command_never_replaces_what_it_wrote_itself(photo: Path) -> None:
    one = Deliveries()
    for _ in range(2):  # the same command twice: the same names
        one = Deliveries()
        paths = [saved(planned(photo, "beside", one, on_exists="overwrite"), content) for content in (b"jpg", b"png")]
        assert [path.name for path in paths if path] == ["me_edited.jpg", "me_edited-2.jpg"]
    assert saved(planned(photo, "beside", one, on_exists="skip")) == photo.parent / "me_edited-3.jpg"


@pytest.mark.parametrize(
    ("save", "sentence"),
    [
        ("{here}/me.png", r"save is .*me\.png, and the result is a JPEG: give a name that ends in \.jpg"),
        ("{here}/nowhere/me2.jpg", "but there is no folder .*nowhere: create it"),
        ("{here}/me.jpg/", r"but .*me\.jpg is a file: give a folder"),
        ("{here}/runs/me_1/result.jpg", "which lies in the run folder"),
    ],
)
def test_places_that_cannot_be(photo: Path, save: str, sentence: str) -> None:
    (photo.parent / "runs" / "me_1").mkdir(parents=True)
    with pytest.raises(UsageError, match=sentence):
        planned(photo, save.format(here=photo.parent))


def test_a_read_only_folder_is_refused_before_the_work(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != photo.parent)
    with pytest.raises(UsageError, match=r"save is beside, but nothing may be written in .*photos: give another place"):
        planned(photo, "beside")


@pytest.mark.parametrize("failing", [1, 2])
def test_a_full_disk_leaves_nothing_half_written(photo: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    destination, calls = planned(photo, "beside"), []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot be saved as .*me_edited\.jpg \(no space is left on its disk\)"):
        saved(destination)
    assert names(photo.parent) == ["me.jpg"]


def test_without_the_recipe_the_new_picture_goes_too(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = delivery._place_new

    def refused(source: Path, target: Path) -> None:
        if target.name.endswith(".json"):
            raise PermissionError(errno.EACCES, "Permission denied")
        real(source, target)

    monkeypatch.setattr(delivery, "_place_new", refused)
    with pytest.raises(OutputError, match="Permission denied"):
        saved(planned(photo, "beside"))
    assert names(photo.parent) == ["me.jpg"]


def test_a_disk_without_hard_links(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert [saved(planned(photo, "beside")) for _ in range(2)] == [
        photo.parent / "me_edited.jpg",
        photo.parent / "me_edited-2.jpg",
    ]
    assert len(names(photo.parent)) == 5


def test_a_folder_does_not_edit_its_own_results(photo: Path) -> None:
    result = saved(planned(photo, "beside"))
    found = find_photos([str(photo.parent)])
    assert found.photos == (photo,)
    assert found.skipped == ("me_edited.jpg", "me_edited.jpg.photodrag.json")
    assert find_photos([str(result)]).photos == (result,)  # by name it may be edited on


def test_long_names_are_cut_so_that_the_recipes_name_fits() -> None:
    for stem in ("n" * 250, "é" * 120, "\udc80" * 250):
        assert len(os.fsencode(edited_name(stem, ".jpeg", 9999) + RECIPE_SUFFIX)) <= 255
    assert edited_name("me", ".jpg") == "me_edited.jpg"


def test_settings_that_do_not_go_together() -> None:
    with pytest.raises(UsageError, match=r"save is beside and stages ends with tune: only a run that ends with blend"):
        check_runnable(compose(["photo=me.jpg", "save=beside", "+experiment=inversion_only"]))
    with pytest.raises(UsageError, match="on_exists is ask: allowed are suffix, skip, overwrite"):
        compose(["on_exists=ask"])


def test_a_run_saves_beside_and_says_what_it_skips(
    generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two photos of one stem: each has its own name; as two JPEGs the second has a number, whatever on_exists says."""
    photos = [tmp_path / "in" / name for name in ("a.png", "a.tif")]
    photos[0].parent.mkdir()
    for path in photos:
        shutil.copy(PHOTO, path)
    photos[1].write_bytes(photos[1].read_bytes() + b"\0")  # other bytes, so that it has a run folder of its own
    blend = BlendConfig(format="jpeg")
    for on_exists, told in (("overwrite", 0), ("skip", 2)):
        config = short_config(generator, tmp_path / "out", save="beside", on_exists=on_exists, blend=blend)
        batch = Batch()
        batch.run_photos(config, photos, None, JobValues())
        assert [result.failed for result in batch.results] == [False, False]
        assert names(photos[0].parent) == [
            "a.png",
            "a.tif",
            *("a_edited-2.jpg", "a_edited-2.jpg.photodrag.json", "a_edited.jpg", "a_edited.jpg.photodrag.json"),
        ]
        printed = capsys.readouterr()
        assert printed.err.count("is there already, so nothing is saved (on_exists=skip)") == told
        assert ("saved as" in printed.out) == (not told)
    with pytest.raises(UsageError, match=r"save is .*one\.jpg, one file, and 2 photos are given"):
        Batch().run_photos(short_config(generator, tmp_path, save=str(tmp_path / "one.jpg")), photos, None, JobValues())


def test_the_run_folder_has_both_when_nothing_else_is_said(out: Path) -> None:
    folder = run_dir(out)
    assert (folder / "astronaut_edited.png").read_bytes() == (folder / "result.png").read_bytes()
    assert recipe_path(folder / "astronaut_edited.png").is_file()
    assert {"astronaut_edited.png", "astronaut_edited.png.photodrag.json"} <= set(manifest_of(folder)["products"])
