"""Which photos a batch means: folders and what is below them, lists, patterns, parts; 10,000 files."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from data.errors import UsageError
from pipeline import photo_lists
from pipeline.batch_config import read_shard
from pipeline.photo_lists import ListedPhoto, in_shard, list_photos


def put(folder: Path, *names: str) -> None:
    """Empty files, with the folders that they need."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def names_of(*words: str | Path, out: str = "nowhere") -> list[str]:
    return [photo.name for photo in list_photos([str(word) for word in words], out).photos]


def test_a_folder_is_all_that_lies_below_it_in_the_order_of_people(tmp_path: Path) -> None:
    put(tmp_path, "b10.jpg", "b2.JPG", "sub/deep/z.png", "sub/a.heic", "notes.txt", ".hidden.png", ".dir/x.png")
    found = list_photos([str(tmp_path)], "nowhere")
    assert [photo.name for photo in found.photos] == ["b2.JPG", "b10.jpg", "sub/a.heic", "sub/deep/z.png"]
    assert all(Path(photo.path) == tmp_path / photo.name for photo in found.photos)
    assert dict(found.skipped) == {"hidden": 2, "other files": 1}
    last = found.photos[-1]
    assert (last.folder, last.stem, last.suffix) == ("sub/deep", "z", ".png")


def test_results_runs_and_the_out_folder_are_no_photos(tmp_path: Path) -> None:
    put(tmp_path, "me.jpg", "me_edited.jpg", "me_edited.jpg.photodrag.json", "photodrag_runs/me_1/crop.png")
    put(tmp_path, "mine/run/crop.png", "mine/batch_x_1/thumbs/t.jpg", "mine/batch_x_1/ledger.jsonl", "web/pic.png")
    put(tmp_path, "other out/x.png", "mine/experiment_x_1/montage.png", "mine/experiment_x_1/results.json")
    manifest = {"run_id": "x", "stages": [], "products": {}}
    (tmp_path / "mine/run/manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "web/manifest.json").write_text('{"name": "an app of somebody"}')
    assert names_of(tmp_path, out=str(tmp_path / "other out")) == ["me.jpg", "web/pic.png"]


def test_a_folder_of_results_alone_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    put(tmp_path, "a_edited.png", "a_edited.png.photodrag.json")
    with pytest.raises(UsageError, match=r"holds no photo, only 1 results, 1 other files: allowed are folders, lists"):
        names_of(tmp_path)


def test_loops_of_links_end_and_a_linked_folder_is_read_once(tmp_path: Path) -> None:
    put(tmp_path, "in/a.jpg", "in/sub/b.jpg", "else/c.jpg")
    (tmp_path / "in/again").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "in/asub").symlink_to("sub", target_is_directory=True)
    (tmp_path / "in/outside").symlink_to(tmp_path / "else", target_is_directory=True)
    (tmp_path / "in/self.jpg").symlink_to("self.jpg")
    (tmp_path / "in/gone.jpg").symlink_to("nothing.jpg")
    assert names_of(tmp_path / "in") == ["a.jpg", "sub/b.jpg", "outside/c.jpg"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_that_are_no_unicode_and_strange_ones_come_through(tmp_path: Path) -> None:
    raw = os.fsencode(str(tmp_path)) + b"/caf\xe9 \xff.jpg"
    Path(os.fsdecode(raw)).write_bytes(b"")
    put(tmp_path, "été/画像 1.png", "a=b, ${x}.png")
    found = names_of(tmp_path)
    assert os.fsencode(found[1]) == b"caf\xe9 \xff.jpg"
    assert [found[0], found[2]] == ["a=b, ${x}.png", "été/画像 1.png"]


def test_several_folders_stay_apart_and_a_photo_given_twice_counts_once(tmp_path: Path) -> None:
    put(tmp_path, "x/in/a.jpg", "y/in/a.jpg", "z/b.jpg")
    words = [tmp_path / "x/in", tmp_path / "y/in", tmp_path / "z", tmp_path / "z/b.jpg"]
    assert names_of(*words) == ["in/a.jpg", "in-2/a.jpg", "z/b.jpg"]


def test_a_list_names_photos_from_its_own_folder_on(tmp_path: Path) -> None:
    put(tmp_path, "lists/in/a.jpg", "b.jpg")
    (tmp_path / "lists/mine.txt").write_bytes(
        b"\xef\xbb\xbf# faces\r\nin/a.jpg\r\n\n  ../b.jpg\nnot there.png\nin/a.jpg\n"
    )
    found = list_photos([str(tmp_path / "lists/mine.txt")], "nowhere").photos
    assert [photo.name for photo in found] == ["in/a.jpg", "b.jpg", "not there.png"]
    assert found[1].path == str(tmp_path / "b.jpg")


def test_standard_input_is_a_list_from_the_current_folder_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = list_photos(["-"], "nowhere", io.BytesIO(b"one.png\ncaf\xe9.png")).photos
    assert found[0] == ListedPhoto(str(tmp_path / "one.png"), "one.png")
    assert os.fsencode(found[1].name) == b"caf\xe9.png"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"a.doc", "line 2 of LIST is 'a.doc', which is no photo"),
        (b"a\0.jpg", "line 2 of LIST is 'a"),
        (b"sub", "'sub'"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, line: bytes, sentence: str) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"a.jpg\n" + line)
    with pytest.raises(UsageError) as caught:
        names_of(path)
    assert sentence.replace("LIST", str(path)) in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["a.jpg", "b.jpg"]),
        ("**/*.jpg", ["a.jpg", "b.jpg", "sub/c.jpg", "sub/deep/d.jpg"]),
        ("sub/**", ["c.jpg", "e.png", "deep/d.jpg", "loop/a.jpg", "loop/b.jpg"]),
        ("s?b/*.png", ["sub/e.png"]),
        ("[ab].*", ["a.jpg", "b.jpg"]),
        ("[!a].jpg", ["b.jpg"]),
        ("*/deep/*", ["sub/deep/d.jpg"]),
        ("**/deep/**/d.*", ["sub/deep/d.jpg"]),
    ],
)
def test_patterns_are_ours_and_not_the_shell_s(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    put(tmp_path, "a.jpg", "b.jpg", "sub/c.jpg", "sub/e.png", "sub/deep/d.jpg", ".hidden/a.jpg")
    (tmp_path / "sub/loop").symlink_to(tmp_path, target_is_directory=True)
    assert names_of(f"{tmp_path}/{pattern}") == expected


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    put(tmp_path, "a[1].jpg", "a1.jpg")
    assert names_of(tmp_path / "a[1].jpg") == ["a[1].jpg"]


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("nothing", "nothing does not exist: allowed are folders, photos, .txt lists"),
        ("*.webp", "matches no file: "),
        ("nowhere/*.jpg", "is no folder"),
    ],
)
def test_what_names_nothing_is_refused(tmp_path: Path, word: str, sentence: str) -> None:
    put(tmp_path, "a.jpg")
    with pytest.raises(UsageError, match=sentence.replace(".", r"\.")):
        names_of(f"{tmp_path}/{word}")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_below_that_is_closed_is_told(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "closed/b.jpg")
    (tmp_path / "closed").chmod(0)
    try:
        found = list_photos([str(tmp_path)], "nowhere")
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert [photo.name for photo in found.photos] == ["a.jpg"]
    assert found.unreadable == ["closed"]


def test_parts_hold_every_photo_once_and_do_not_move_when_others_come() -> None:
    photos = [ListedPhoto(f"/x/{n}.jpg", f"{n}.jpg") for n in range(1000)]
    parts = [in_shard(photos, number, 7) for number in range(1, 8)]
    assert sorted(photo.name for part in parts for photo in part) == sorted(photo.name for photo in photos)
    assert all(90 < len(part) < 200 for part in parts)
    more = [ListedPhoto("/x/new.jpg", "new.jpg"), *photos]
    assert [photo for photo in in_shard(more, 3, 7) if photo.name != "new.jpg"] == parts[2]


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "1/2/3", "-1/4", "", "1/4x", "²/4"])
def test_a_part_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="allowed is i/n with i from 1 to n, as in shard=3/8"):
        read_shard(text)


def test_ten_thousand_photos_are_listed_with_one_look_at_each_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in range(20):
        (tmp_path / f"{folder}").mkdir()
        for number in range(500):
            (tmp_path / f"{folder}/{number}.jpg").touch()
    looks = []
    scan = os.scandir
    monkeypatch.setattr(photo_lists.os, "scandir", lambda path: looks.append(path) or scan(path))
    found = list_photos([str(tmp_path)], "nowhere").photos
    assert len(found) == len({photo.path for photo in found}) == 10_000
    assert len(looks) == 21
    assert [photo.name for photo in found[:2]] == ["0/0.jpg", "0/1.jpg"]
    assert found[-1].name == "19/499.jpg"
