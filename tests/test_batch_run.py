"""A batch's bookkeeping with made-up work: what is computed again, what is saved where, failures, parts, the pages."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import re
import shutil
import threading
import time
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest

from data.errors import OutputError
from pipeline import bars, delivery, ledger
from pipeline.executors.protocol import AGAIN, DONE, FAILED, STOP, BatchJob, ItemOutcome, WorkItem
from pipeline.photo_lists import name_hash
from pipeline.progress import Console
from tests.batches import Inline, batch, batch_folder, errors, made_up, put_photos, rows, saved, summary, tree, use


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> Inline:
    return use(monkeypatch, Inline())


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A folder of photos, two of them with the same content."""
    folder = tmp_path / "given"
    put_photos(folder, "a.jpg", "b.png", "2024/c.jpg", "2024/é, d=1.jpg")
    shutil.copy(folder / "a.jpg", folder / "2024/copy of a.jpg")
    return folder


def test_a_second_call_computes_nothing_and_the_same_tables_are_left(
    tmp_path: Path, inline: Inline, given: Path
) -> None:
    out, to = tmp_path / "out", tmp_path / "to"
    assert batch(out, given, f"save={to}") == 0
    assert inline.names() == ["a.jpg", "b.png", "2024/c.jpg", "2024/é, d=1.jpg"]
    first, table = tree(to), rows(batch_folder(out))
    names = ["2024/c_edited.jpg", "2024/copy of a_edited.jpg", "2024/é, d=1_edited.jpg", "a_edited.jpg", "b_edited.png"]
    assert saved(to) == names
    assert batch(out, given, f"save={to}") == 0
    assert inline.names() == []
    assert tree(to) == first
    assert rows(batch_folder(out)) == table
    told = summary(batch_folder(out))
    assert (told["photos"], told["done"], told["computed"], told["saved"]) == (5, 5, 0, 5)


def test_equal_photos_are_computed_once_and_each_has_its_own_result(
    tmp_path: Path, inline: Inline, given: Path
) -> None:
    to = tmp_path / "to"
    batch(tmp_path / "out", given, f"save={to}")
    copy, original = to / "2024/copy of a_edited.jpg", to / "a_edited.jpg"
    assert copy.read_bytes() == original.read_bytes()
    told = json.loads(copy.with_name(f"{copy.name}.photodrag.json").read_text())
    assert (told["photo"]["name"], told["result"]["name"]) == ("copy of a.jpg", "copy of a_edited.jpg")
    table = {row["photo"]: row for row in rows(batch_folder(tmp_path / "out"))}
    assert table["2024/copy of a.jpg"]["run"] == table["a.jpg"]["run"]


def test_only_what_is_new_changed_or_lost_is_computed_again(tmp_path: Path, inline: Inline, given: Path) -> None:
    out, to = tmp_path / "out", tmp_path / "to"
    batch(out, given, f"save={to}")
    inline.names()
    put_photos(given, "new.jpg")
    (given / "b.png").write_bytes(b"another photo")
    (given / "2024/c.jpg").rename(given / "moved.jpg")
    lost = next(out.glob("é*"))
    shutil.rmtree(lost)
    (to / "2024/é, d=1_edited.jpg").unlink()
    assert batch(out, given, f"save={to}") == 0
    assert sorted(inline.names()) == ["2024/é, d=1.jpg", "b.png", "new.jpg"]
    assert (to / "moved_edited.jpg").is_file()  # computed under its old name, saved under the new one
    assert (to / "b_edited-2.png").read_bytes() == b"another photox"


def test_run_folders_of_saved_results_may_go(tmp_path: Path, inline: Inline, given: Path) -> None:
    out, to = tmp_path / "out", tmp_path / "to"
    batch(out, given, f"save={to}")
    inline.names()
    for run in [path for path in out.iterdir() if not path.name.startswith("batch_")]:
        shutil.rmtree(run)
    assert batch(out, given, f"save={to}") == 0
    assert inline.names() == []
    (to / "b_edited.png").unlink()
    assert batch(out, given, f"save={to}") == 0
    assert inline.names() == ["b.png"]
    assert len(saved(to)) == 5


def test_a_photo_equal_to_one_that_failed_fails_with_it(tmp_path: Path, inline: Inline) -> None:
    put_photos(tmp_path / "given", "bad.jpg")
    shutil.copy(tmp_path / "given/bad.jpg", tmp_path / "given/same.jpg")
    assert batch(tmp_path / "out", tmp_path / "given") == 1
    assert inline.names() == ["bad.jpg"]
    assert [error["photo"] for error in errors(batch_folder(tmp_path / "out"))] == ["bad.jpg", "same.jpg"]


def test_another_run_in_the_same_folder_does_not_pass_for_the_batch_s(
    tmp_path: Path, inline: Inline, given: Path
) -> None:
    out, to = tmp_path / "out", tmp_path / "to"
    batch(out, given)
    inline.names()
    result = next(out.glob("b_*")) / "b_edited.png"
    result.write_bytes(b"an edit of somebody else")
    assert batch(out, given, f"save={to}") == 0
    assert inline.names() == ["b.png"]
    assert (to / "b_edited.png").read_bytes().endswith(b"x")


def test_another_recipe_is_another_batch_and_speed_or_place_are_not(
    tmp_path: Path, inline: Inline, given: Path
) -> None:
    out = tmp_path / "out"
    batch(out, given)
    inline.names()
    batch(out, given, "threads=1", "executor.workers=1", "batch.page_photos=2", "on_exists=skip", f"save={tmp_path}/to")
    assert inline.names() == []
    batch_folder(out)
    batch(out, given, "seed=1")
    assert len(inline.names()) == 4
    assert len(list(out.glob("batch_*"))) == 2


def test_what_a_setting_names_is_part_of_the_recipe_by_its_content(tmp_path: Path, inline: Inline, given: Path) -> None:
    edits = tmp_path / "edits.json"
    edits.write_text(json.dumps({"photodrag_edits": 1, "edits": [{"preset": "smile"}]}))
    words = (given, "edit=drag", f"edit.replay={edits}")
    assert batch(tmp_path / "out", *words) == 0
    assert len(inline.names()) == 4
    assert batch(tmp_path / "out", *words) == 0
    assert inline.names() == []
    edits.write_text(json.dumps({"photodrag_edits": 1, "edits": [{"preset": "frown"}]}))
    assert batch(tmp_path / "out", *words) == 0
    assert len(inline.names()) == 4


def test_a_failed_photo_stops_no_other_and_is_tried_again(
    tmp_path: Path, inline: Inline, given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_photos(given, "bad.jpg")
    assert batch(tmp_path / "out", given) == 1
    assert "warning: [3/6] bad.jpg: failed: bad.jpg has no face." in capsys.readouterr().err
    (error,) = errors(batch_folder(tmp_path / "out"))
    assert {name: error[name] for name in ("photo", "stage", "error", "kind")} == {
        "photo": "bad.jpg",
        "stage": "align",
        "error": "bad.jpg has no face.",
        "kind": "NoFaceError",
    }
    assert len(error["sha256"]) == 64 and "traceback" not in error
    assert [row["status"] for row in rows(batch_folder(tmp_path / "out")) if row["photo"] == "bad.jpg"] == ["failed"]
    inline.names()
    inline.work = lambda job, item: dataclasses.replace(made_up(job, renamed(item)), item=item)
    assert batch(tmp_path / "out", given) == 0
    assert inline.names() == ["bad.jpg"]
    assert errors(batch_folder(tmp_path / "out")) == []


def renamed(item: WorkItem) -> WorkItem:
    """The item as if its photo was a good one."""
    good = Path(item.photo).with_name("good.jpg")
    shutil.copy(item.photo, good)
    return dataclasses.replace(item, photo=str(good))


def test_a_batch_stops_after_so_many_failures_and_goes_on_when_it_is_called_again(
    tmp_path: Path, inline: Inline, capsys: pytest.CaptureFixture[str]
) -> None:
    put_photos(tmp_path / "given", *(f"bad{number}.jpg" for number in range(5)), "good.jpg")
    assert batch(tmp_path / "out", tmp_path / "given", "max_failures=2") == 1
    assert inline.names() == ["bad0.jpg", "bad1.jpg"]
    printed = capsys.readouterr().out
    assert "0 of 6 photos done, 2 failed, 4 not reached" in printed
    assert "stopped, because max_failures=2 photos have failed" in printed
    told = summary(batch_folder(tmp_path / "out"))
    assert (told["complete"], told["exit_code"], told["missing"]) == (False, 1, 4)
    assert batch(tmp_path / "out", tmp_path / "given") == 1
    assert len(inline.names()) == 6


def test_names_of_results_follow_the_pattern_and_are_kept_apart(tmp_path: Path, inline: Inline) -> None:
    put_photos(tmp_path / "given", "a.jpg", "a.jpeg", "x/a.jpg")
    words = (tmp_path / "given", f"save={tmp_path}/to", "batch.names={parent}-{stem}{suffix}")
    assert batch(tmp_path / "out", *words) == 0
    assert saved(tmp_path / "to") == ["given-a_jpeg.jpg", "given-a_jpg.jpg", "x/x-a.jpg"]


def test_a_photo_keeps_its_result_s_name_when_another_of_that_name_comes(tmp_path: Path, inline: Inline) -> None:
    given, words = tmp_path / "given", (f"save={tmp_path}/to", "blend.format=jpeg")
    put_photos(given, "a.jpg")
    batch(tmp_path / "out", given, *words)
    put_photos(given, "a.jpe")
    batch(tmp_path / "out", given, *words)
    assert saved(tmp_path / "to") == ["a_edited.jpg", "a_jpe_edited.jpg"]


@pytest.mark.parametrize("on_exists", ["suffix", "skip", "overwrite"])
def test_what_is_there_already_is_treated_as_asked(
    tmp_path: Path, inline: Inline, on_exists: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put_photos(tmp_path / "given", "a.jpg")
    (tmp_path / "to").mkdir()
    mine = tmp_path / "to/a_edited.jpg"
    mine.write_bytes(b"mine")
    for _ in range(2):
        assert batch(tmp_path / "out", tmp_path / "given", f"save={tmp_path}/to", f"on_exists={on_exists}") == 0
    assert (mine.read_bytes() == b"mine") == (on_exists != "overwrite")
    found = {path.name for path in (tmp_path / "to").iterdir() if path.suffix != ".json"}
    assert found == {"a_edited.jpg", "a_edited-2.jpg"} if on_exists == "suffix" else {"a_edited.jpg"}
    assert ("is there already, so nothing is saved" in capsys.readouterr().err) == (on_exists == "skip")


def test_beside_the_photos_twice_edits_no_result(tmp_path: Path, inline: Inline, given: Path) -> None:
    assert batch(tmp_path / "out", given, "save=beside") == 0
    before = tree(given)
    assert "2024/c_edited.jpg" in before and "b_edited.png.photodrag.json" in before
    assert batch(tmp_path / "out", given, "save=beside") == 0
    assert tree(given) == before


def test_a_call_that_is_killed_between_saving_and_noting_saves_nothing_twice(
    tmp_path: Path, inline: Inline, given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, to = tmp_path / "out", tmp_path / "to"
    with monkeypatch.context() as patch:
        patch.setattr(ledger.Ledger, "add_saved", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert batch(out, given, f"save={to}") == 130
    assert saved(to) == ["a_edited.jpg"]
    assert batch(out, given, f"save={to}") == 0
    assert len(saved(to)) == 5
    assert not list(to.rglob("*-2*"))


def test_a_call_that_is_killed_between_recipe_and_result_leaves_neither_alone(
    tmp_path: Path, inline: Inline, given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, to = tmp_path / "out", tmp_path / "to"
    place = delivery._place_new
    with monkeypatch.context() as patch:

        def killed(source: Path, target: Path) -> None:
            if target.suffix != ".json":
                os._exit(9)
            place(source, target)

        patch.setattr(delivery, "_place_new", killed)
        child = os.fork()
        if child == 0:
            batch(out, given, f"save={to}")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert [path.name for path in to.iterdir() if path.name[0] != "."] == ["a_edited.jpg.photodrag.json"]
    assert batch(out, given, f"save={to}") == 0
    assert len(list(to.rglob("*.json"))) == 5
    assert not list(to.rglob("*-2*"))


def test_ctrl_c_keeps_the_tables_of_both_calls(
    tmp_path: Path, inline: Inline, given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def until_c(job: BatchJob, item: WorkItem) -> ItemOutcome:
        if item.name == "2024/c.jpg":
            raise KeyboardInterrupt
        return made_up(job, item)

    inline.work = until_c
    assert batch(tmp_path / "out", given) == 130
    printed = capsys.readouterr()
    assert "2 of 5 photos done, 0 failed, 3 not reached" in printed.out
    assert "the same command continues where it stopped" in printed.err
    folder = batch_folder(tmp_path / "out")
    assert len(rows(folder)) == 2 and summary(folder)["complete"] is False
    (given / "0.jpg").write_bytes(b"comes first")

    def at_once(job: BatchJob, item: WorkItem) -> ItemOutcome:
        raise KeyboardInterrupt

    inline.work = at_once
    assert batch(tmp_path / "out", given) == 130
    assert {row["photo"] for row in rows(folder)} >= {"a.jpg", "b.png"}
    inline.work = made_up
    inline.names()
    assert batch(tmp_path / "out", given) == 0
    assert inline.names() == ["0.jpg", "2024/c.jpg", "2024/é, d=1.jpg"]


def test_a_photo_that_changes_is_tried_once_more_at_the_end_and_then_told(
    tmp_path: Path, inline: Inline, given: Path
) -> None:
    tries: list[str] = []

    def changing(job: BatchJob, item: WorkItem) -> ItemOutcome:
        tries.append(item.name)
        if item.name == "b.png" or (item.name == "a.jpg" and tries.count("a.jpg") == 1):
            return ItemOutcome(item, AGAIN, stage="read", error=f"{item.name} was being written.", kind="PhotoError")
        return made_up(job, item)

    inline.work = changing
    assert batch(tmp_path / "out", given, f"save={tmp_path}/to") == 1
    assert tries == ["a.jpg", "b.png", "2024/c.jpg", "2024/copy of a.jpg", "2024/é, d=1.jpg", "b.png"]
    (error,) = errors(batch_folder(tmp_path / "out"))
    assert (error["photo"], error["error"]) == ("b.png", "b.png was being written.")
    assert len(saved(tmp_path / "to")) == 4


def test_a_photo_that_is_written_to_or_vanishes_while_the_batch_runs(
    tmp_path: Path, inline: Inline, given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hash_file, reads = ledger.file_sha256, []

    def busy(path: Path) -> str:
        reads.append(path.name)
        if path.name == "a.jpg" and reads.count("a.jpg") == 1:
            path.write_bytes(b"the whole photo")
            (given / "2024/c.jpg").unlink()
        return hash_file(path)

    monkeypatch.setattr(ledger, "file_sha256", busy)
    assert batch(tmp_path / "out", given) == 1
    assert inline.names()[-1] == "a.jpg"
    (error,) = errors(batch_folder(tmp_path / "out"))
    assert (error["photo"], error["stage"]) == ("2024/c.jpg", "read")
    assert error["error"] == "2024/c.jpg is not there (any more): bring it back, or leave it out."
    assert error["page"] == "docs/errors.md#batch-photo-gone"


def test_a_failure_names_its_place_on_the_page_of_errors(tmp_path: Path, inline: Inline, given: Path) -> None:
    sentences = {"a.jpg": "There is no photo 'a.jpg'; check the path.", "b.png": "The sky is blue."}
    faces = ("face 1: There is no photo 'c.jpg'; check the path.", "face 2: The sky is blue.")

    def failing(job: BatchJob, item: WorkItem) -> ItemOutcome:
        if item.name == "2024/c.jpg":
            rows = tuple({**made_up(job, item).rows[0], "status": "failed", "error": error} for error in faces)
            return ItemOutcome(item, FAILED, rows=rows, error=" ".join(faces))
        if item.name not in sentences:
            return made_up(job, item)
        return ItemOutcome(item, FAILED, stage="align", error=sentences[item.name], kind="PhotoError")

    inline.work = failing
    assert batch(tmp_path / "out", given) == 1
    pages = {error["photo"]: error["page"] for error in errors(batch_folder(tmp_path / "out"))}
    there = "docs/errors.md#photo-not-there"
    assert pages == {"a.jpg": there, "2024/copy of a.jpg": there, "b.png": None, "2024/c.jpg": there}


def test_a_full_disk_ends_the_batch_with_its_sentence(
    tmp_path: Path, inline: Inline, given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(job: BatchJob, item: WorkItem) -> ItemOutcome:
        if item.name == "b.png":
            return ItemOutcome(item, STOP, stage="invert", error="No space is left on the disk.", kind="OutputError")
        return made_up(job, item)

    inline.work = full
    assert batch(tmp_path / "out", given) == 1
    assert "photodrag: No space is left on the disk." in capsys.readouterr().err
    assert inline.names() == ["a.jpg", "b.png"]
    assert summary(batch_folder(tmp_path / "out"))["done"] == 1  # its copy was not reached


def test_a_place_that_takes_no_result_is_a_failure_of_that_photo_and_a_full_one_of_all(
    tmp_path: Path, inline: Inline, given: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = delivery._place_new
    codes = {"b_edited.png": errno.EACCES}

    def refusing(source: Path, target: Path) -> None:
        if target.name in codes:
            raise OSError(codes[target.name], os.strerror(codes[target.name]))
        place(source, target)

    monkeypatch.setattr(delivery, "_place_new", refusing)
    assert batch(tmp_path / "out", given, f"save={tmp_path}/to") == 1
    (error,) = errors(batch_folder(tmp_path / "out"))
    assert (error["photo"], error["stage"], error["kind"]) == ("b.png", "save", "OutputError")
    assert len(saved(tmp_path / "to")) == 4
    codes["b_edited.png"] = errno.ENOSPC
    inline.names()
    assert batch(tmp_path / "out", given, f"save={tmp_path}/to") == 1
    assert inline.names() == []  # computed before, only not saved
    assert "no space is left on its disk" in capsys.readouterr().err


def test_files_that_came_from_another_machine_get_their_run_folder(tmp_path: Path, inline: Inline, given: Path) -> None:
    def remote(job: BatchJob, item: WorkItem) -> ItemOutcome:
        outcome = made_up(dataclasses.replace(job, config={**job.config, "out": str(tmp_path / "elsewhere")}), item)
        run = Path(str(outcome.run))
        files = {path.name: path.read_bytes() for path in run.iterdir()}
        shutil.rmtree(run)
        return dataclasses.replace(outcome, run=None, result=Path(str(outcome.result)).name, files=files)

    inline.work = remote
    for _ in range(2):
        assert batch(tmp_path / "out", given, f"save={tmp_path}/to") == 0
    assert len(inline.names()) == 4
    assert len(saved(tmp_path / "to")) == 5
    assert next((tmp_path / "out").glob("b_*/b_edited.png")).is_file()


def test_parts_write_apart_and_a_call_without_part_sees_them_all(
    tmp_path: Path, inline: Inline, given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, to = tmp_path / "out", tmp_path / "to"
    put_photos(given, "bad.jpg")
    codes = [batch(out, given, f"save={to}", f"shard={number}/3") for number in (1, 2, 3)]
    assert sorted(codes)[-1] == 1
    folder = batch_folder(out)
    parts = [folder / "shards" / f"{number}_of_3" for number in (1, 2, 3)]
    names = [name for part in parts for name in (row["photo"] for row in rows(part))]
    assert sorted(names) == sorted(["a.jpg", "b.png", "bad.jpg", "2024/c.jpg", "2024/copy of a.jpg", "2024/é, d=1.jpg"])
    assert not (folder / "ledger.jsonl").exists() and not (folder / "results.csv").exists()
    inline.names()
    assert batch(out, given, f"save={to}") == 1
    assert inline.names() == ["bad.jpg"]
    assert len(rows(folder)) == 6
    assert len(saved(to)) == 5
    assert "5 of 6 photos done, 1 failed" in capsys.readouterr().out


def test_a_part_without_a_photo_is_done(tmp_path: Path, inline: Inline) -> None:
    put_photos(tmp_path / "given", "a.jpg")
    empty = 2 if name_hash("a.jpg") % 2 == 0 else 1
    assert batch(tmp_path / "out", tmp_path / "given", f"shard={empty}/2") == 0
    assert inline.names() == []


def test_two_calls_of_one_batch_at_a_time_are_refused(
    tmp_path: Path, inline: Inline, given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def again(job: BatchJob, item: WorkItem) -> ItemOutcome:
        inline.work = made_up
        assert batch(tmp_path / "out", given) == 2
        return made_up(job, item)

    inline.work = again
    assert batch(tmp_path / "out", given) == 0
    assert "is in use by process" in capsys.readouterr().err


def test_the_contact_sheet_shows_every_photo_on_small_pages_with_safe_names(tmp_path: Path, inline: Inline) -> None:
    given = tmp_path / "given"
    strange = os.fsdecode(b"caf\xe9 & co.jpg")
    put_photos(given, '<script>alert("1")</script>.jpg'.replace("/", "_"), "bad <b>.jpg", strange, "c.jpg", "d#1?.png")
    assert batch(tmp_path / "out", given, "batch.page_photos=2") == 1
    folder = batch_folder(tmp_path / "out")
    pages = [folder / "report.html", folder / "report_2.html", folder / "report_3.html"]
    texts = [page.read_text(encoding="utf-8") for page in pages]
    assert [text.count("<figure") for text in texts] == [2, 2, 1]
    whole = "".join(texts)
    assert "<script" not in whole and "&lt;script&gt;" in whole
    assert "caf\\xe9 &amp; co.jpg" in whole
    assert "align: bad &lt;b&gt;.jpg has no face." in whole
    way = re.compile(r'Failed: <a href="report(_\d)?.html#photo\d">\d. bad &lt;b&gt;.jpg</a></p>')
    assert all(len(way.findall(text)) == 1 for text in texts)
    for link in re.findall(r'(?:href|src)="([^"]*)"', whole):
        link, _, anchor = link.partition("#")
        assert not anchor or f'id="{anchor}"' in (folder / link).read_text(encoding="utf-8")
        target = folder / os.fsdecode(unquote_to_bytes(link))
        assert target.exists() or target.name == "report.html", link
    assert (folder / "thumbs").is_dir() and len(list((folder / "thumbs").iterdir())) == 8
    shutil.rmtree(given)
    put_photos(given, "c.jpg")
    assert batch(tmp_path / "out", given) == 0
    assert sorted(path.name for path in folder.glob("report*")) == ["report.html"]


def test_ten_thousand_photos_take_one_hash_each_and_none_the_next_time(
    tmp_path: Path, inline: Inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "given"
    for folder in range(10):
        (given / str(folder)).mkdir(parents=True)
        for number in range(1000):
            (given / f"{folder}/{number}.jpg").write_bytes(b"%d %d" % (folder, number % 990))
    hash_file, reads, syncs = ledger.file_sha256, [], []
    monkeypatch.setattr(ledger, "file_sha256", lambda path: reads.append(path) or hash_file(path))
    monkeypatch.setattr("pipeline.artifacts.os.fsync", syncs.append)
    row = {"face": 1, "status": "done", "error": None}
    inline.work = lambda job, item: ItemOutcome(item, DONE, rows=(row,), run=str(tmp_path))
    (tmp_path / "manifest.json").write_text("{}")
    words = (given, "stages=[align,invert]")
    assert batch(tmp_path / "out", *words) == 0
    assert len(reads) == 10_000
    assert len(inline.names()) == 9_900
    folder = batch_folder(tmp_path / "out")
    assert len((folder / "ledger.jsonl").read_bytes().splitlines()) == 9_900
    assert len(rows(folder)) == 10_000
    assert len(list(folder.glob("report*.html"))) == 50
    assert max(path.stat().st_size for path in folder.glob("report*.html")) < 200_000
    assert batch(tmp_path / "out", *words) == 0
    assert len(reads) == 10_000
    assert inline.names() == []


def test_checks_before_a_batch_are_made_once_and_not_for_each_photo(
    tmp_path: Path, inline: Inline, given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    inputs = delivery.Inputs.__init__
    monkeypatch.setattr(delivery.Inputs, "__init__", lambda self, paths=(): made.append(1) or inputs(self, paths))
    assert batch(tmp_path / "out", given, f"save={tmp_path}/to") == 0
    assert made == [1]


def test_a_bar_shows_how_far_a_batch_is_and_only_failures_have_lines(
    tmp_path: Path, inline: Inline, given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_photos(given, "bad.jpg")
    assert batch(tmp_path / "out", given, progress=True) == 1
    printed = capsys.readouterr()
    assert "6/6" in printed.err and "failed=1" in printed.err and "photos: 100%" in printed.err
    assert "bad.jpg: failed: bad.jpg has no face." in printed.err
    assert "a.jpg: done" not in printed.out


def test_the_rate_counts_what_this_call_computes_alone_and_by_a_clock_that_nobody_sets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Console().photos(10) as bar:
        monkeypatch.setattr(time, "time", lambda: -1e9)
        for number in range(8):
            bar.step(computed=number >= 6, failed=False)
        inside = bar._bar
        assert (inside.n, inside.initial, inside.total) == (8, 6, 10)
        assert 0 <= inside.format_dict["elapsed"] < 600


def test_on_a_terminal_the_bar_moves_while_no_photo_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        drawn = threading.Event()

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            if threading.current_thread() is not threading.main_thread():
                self.drawn.set()
            return super().write(text)

    terminal = Terminal()
    monkeypatch.setattr(bars, "TICK_S", 0.001)
    monkeypatch.setattr("sys.stderr", terminal)
    with Console().photos(10):
        assert terminal.drawn.wait(60)
    with Console(progress=False).photos(10) as bar:
        bar.step(computed=True, failed=True)
    assert "0/10" in terminal.getvalue() and "1/10" not in terminal.getvalue()


def test_a_result_is_never_written_over_a_photo(tmp_path: Path, inline: Inline) -> None:
    put_photos(tmp_path / "given", "a.jpg", "a_edited.jpg")
    before = (tmp_path / "given/a_edited.jpg").read_bytes()
    batch(tmp_path / "out", tmp_path / "given", "save=beside", "on_exists=overwrite")
    assert (tmp_path / "given/a_edited.jpg").read_bytes() == before


def test_the_outcome_of_several_faces_is_saved_though_one_failed(tmp_path: Path, inline: Inline, given: Path) -> None:
    def half(job: BatchJob, item: WorkItem) -> ItemOutcome:
        good = made_up(job, item)
        bad = {**good.rows[0], "face": 2, "status": "failed", "error": "face 2: no."}
        return dataclasses.replace(good, status=FAILED, rows=(*good.rows, bad), error="face 2: no.")

    inline.work = half
    assert batch(tmp_path / "out", given, f"save={tmp_path}/to") == 1
    assert len(saved(tmp_path / "to")) == 5
    assert len(rows(batch_folder(tmp_path / "out"))) == 10


def test_tables_that_cannot_be_written_hide_no_other_error(
    tmp_path: Path, inline: Inline, given: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OutputError("The table cannot be written.")

    monkeypatch.setattr("pipeline.batch_report.write_tables", refuse)
    assert batch(tmp_path / "out", given) == 1
    assert "photodrag: The table cannot be written." in capsys.readouterr().err
    full = "No space is left on the disk."
    inline.work = lambda job, item: ItemOutcome(item, STOP, error=full, kind="OutputError")
    assert batch(tmp_path / "out2", given) == 1
    assert f"photodrag: {full}" in capsys.readouterr().err
