"""The studio's desk with a tiny generator: sessions, edits, undo, saving, restarts, several pages at once."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.errors import PhotodragError, PhotoError, UsageError
from data.photo import read_photo
from pipeline.cli import main
from pipeline.edit_console import EditConsole
from pipeline.run import run
from pipeline.schema import EditConfig
from pipeline.studio import messages as ask
from pipeline.studio.desk import Desk
from pipeline.studio.record import Records
from pipeline.studio.uploads import Limits
from pipeline.studio.work import MOST_SITTINGS
from tests.runs import PHOTO, short_config
from tests.watching_page import ListeningPage

DRAG = ((220.0, 130.0, 235.0, 130.0),)
OTHER = ((200.0, 150.0, 205.0, 160.0),)


@pytest.fixture(scope="module")
def prepared(generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a studio in which the sample photo is prepared."""
    out = tmp_path_factory.mktemp("studio")
    desk, page = Desk(settings(generator, out), Limits()), ListeningPage()
    desk.do(ask.Watch(desk.open_file(PHOTO)), page)
    assert page.rest()["phase"] == "ready"
    desk.close()
    return out


def settings(generator: Path, out: Path, **changes: Any) -> Any:
    edit = EditConfig(steps=8, lr=0.05, stop_px=0.001, r1_px=3.0, mask_weight=0.075)
    return short_config(generator, out, photo=None, edit=edit, **changes)


@pytest.fixture
def out(prepared: Path, tmp_path: Path) -> Path:
    """A copy; the records name the run folder by its path, which a move would break, so it is written anew."""
    out = Path(shutil.copytree(prepared, tmp_path / "out"))
    records = Records(out / "studio" / "sessions")
    for file in records.folder.glob("*/session.json"):
        file.write_text(file.read_text("utf-8").replace(str(prepared), str(out)), "utf-8")
    return out


@pytest.fixture
def desk(generator: Path, out: Path) -> Iterator[Desk]:
    desk = Desk(settings(generator, out), Limits())
    yield desk
    desk.close()


@pytest.fixture
def page(desk: Desk) -> ListeningPage:
    page = ListeningPage()
    desk.do(ask.Watch(session_of(desk)), page)
    page.rest()
    return page


def session_of(desk: Desk) -> str:
    return str(desk.hello()["recent"][0]["session"])


def picture_of(desk: Desk, url: str) -> np.ndarray:
    found = desk.picture(url.rpartition("/")[2])
    assert found is not None
    with Image.open(io.BytesIO(found[0])) as picture:
        return np.asarray(picture)


def mask_png(mask: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray((mask * 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_a_photo_is_found_prepared_and_shown(desk: Desk, page: ListeningPage) -> None:
    state = page.states[-1]
    assert state["phase"] == "ready" and state["face"] == 0 and state["faces"][0]["prepared"]
    assert len(state["faces"][0]["landmarks"]) == 68
    assert (state["photo"]["width"], state["photo"]["height"]) == (512, 512)
    view = picture_of(desk, state["photo"]["view"]["url"])
    assert np.abs(view.astype(int) - read_photo(PHOTO).pixels).mean() < 3
    json.dumps(state)


def test_opening_the_same_photo_again_is_the_same_session(desk: Desk, page: ListeningPage) -> None:
    assert desk.open_file(PHOTO) == session_of(desk)


def test_a_drag_is_made_shown_live_undone_and_redone(desk: Desk, page: ListeningPage) -> None:
    session = session_of(desk)
    desk.do(ask.Drag(session, DRAG), page)
    page.until(lambda state: state["running"] is not None and state["running"]["points"] == [list(DRAG[0])])
    state = page.rest(at=1)
    edit = state["edits"][0]
    assert edit["kind"] == "points" and edit["stop"] == "cap" and edit["steps"] == 8
    assert np.allclose(edit["points"], [DRAG[0]], atol=0.01)
    assert np.allclose(edit["tracks"][0], [DRAG[0][:2]], atol=0.01) and len(edit["tracks"]) == 9
    assert page.frames and page.frames[0].header["first"]
    numbers = [frame.header["number"] for frame in page.frames]
    assert numbers == sorted(set(numbers))
    patch = picture_of(desk, state["patch"]["url"])
    assert patch.shape[2] == 4 and state["patch"]["sharp"]
    desk.do(ask.Undo(session), page)
    assert page.rest(at=0)["patch"] is None
    desk.do(ask.Redo(session), page)
    assert page.rest(at=1)["patch"] == state["patch"]
    assert picture_of(desk, edit["thumb"]).ndim == 3


def test_live_pictures_are_drawn_only_for_pages_that_are_ready(desk: Desk, page: ListeningPage) -> None:
    page.ready = False
    desk.do(ask.Drag(session_of(desk), DRAG), page)
    page.rest(at=1)
    assert not page.frames


def test_the_saved_photo_is_the_command_lines_to_the_bit(
    desk: Desk, page: ListeningPage, generator: Path, tmp_path: Path
) -> None:
    session = session_of(desk)
    for points in (DRAG, OTHER):
        before = page.states[-1]["at"]
        desk.do(ask.Drag(session, points), page)
        page.rest(at=before + 1)
    desk.do(ask.Save(session), page)
    state = page.until(lambda state: state["saved"] and state["phase"] == "ready")
    files = {entry["kind"]: Path(entry["path"]) for entry in state["saved"]}
    assert files["photo"].name == "astronaut_edited.png"
    assert files["recipe"].is_file() and files["video"].is_file()
    config = short_config(generator, tmp_path / "cli")
    edit = EditConfig(steps=8, lr=0.05, stop_px=0.001, r1_px=3.0, mask_weight=0.075, replay=str(files["edits"]))
    (result, *_) = run(short_config(generator, tmp_path / "cli", edit=edit)).results
    assert config.photo == str(PHOTO)
    assert np.array_equal(read_photo(result).pixels, read_photo(files["photo"]).pixels)
    download = desk.download(state["saved"][0]["url"].rpartition("/")[2])
    assert download == (files["photo"], "astronaut_edited.png")


def test_the_patch_on_the_page_is_what_is_saved(desk: Desk, page: ListeningPage) -> None:
    session = session_of(desk)
    desk.do(ask.Drag(session, DRAG), page)
    page.rest(at=1)
    content, kind = desk.region(session, "result", (0, 0, 512, 512), 1.0)
    with Image.open(io.BytesIO(content)) as picture:
        shown = np.asarray(picture)
    desk.do(ask.Save(session), page)
    state = page.until(lambda state: state["saved"] and state["phase"] == "ready")
    saved = read_photo(Path(state["saved"][0]["path"])).pixels
    apart = np.abs(shown.astype(int) - saved)  # a part of the photo is blended as the whole is, but for rounding
    assert kind == "image/png" and apart.max() <= 1 and (apart > 0).any(axis=2).sum() < 20
    original = np.asarray(Image.open(io.BytesIO(desk.region(session, "original", (10, 20, 110, 80), 1.0)[0])))
    assert np.array_equal(original, read_photo(PHOTO).pixels[20:80, 10:110])


def test_outside_a_painted_mask_nothing_changes(desk: Desk, page: ListeningPage) -> None:
    session = session_of(desk)
    painted = np.zeros((256, 256), np.float32)
    painted[50:90, 90:130] = 1
    desk.do(ask.Mask(session, mask_png(painted)), page)
    assert page.states[-1]["mask"] is not None
    desk.do(ask.Drag(session, DRAG), page)
    page.rest(at=1)
    desk.do(ask.Save(session), page)
    state = page.until(lambda state: state["saved"] and state["phase"] == "ready")
    saved, photo = read_photo(Path(state["saved"][0]["path"])).pixels, read_photo(PHOTO).pixels
    changed = (saved != photo).any(axis=2)
    assert changed.any()
    may_change = np.zeros((512, 512), bool)
    may_change[98:182, 178:262] = True  # the painted square, and a painted pixel round it
    assert not changed[~may_change].any()
    told = json.loads(Path(next(f["path"] for f in state["saved"] if f["kind"] == "recipe")).read_text("utf-8"))
    assert base64.b64decode(told["edits"][0]["mask"]["png"]) == mask_png(painted)
    desk.do(ask.Mask(session, None), page)
    assert page.states[-1]["mask"] is None


def test_an_edit_that_is_stopped_can_be_replayed_to_the_bit(
    desk: Desk, page: ListeningPage, generator: Path, tmp_path: Path
) -> None:
    session = session_of(desk)
    desk.do(ask.Drag(session, DRAG, paused=True), page)
    for number in range(1, 4):
        desk.do(ask.Step(session), page)
        page.until_frames(number)
    desk.do(ask.Stop(session), page)
    state = page.rest(at=1)
    assert state["edits"][0]["stop"] == "stopped" and state["edits"][0]["steps"] == 3
    desk.do(ask.Save(session), page)
    state = page.until(lambda state: state["saved"] and state["phase"] == "ready")
    files = {entry["kind"]: entry["path"] for entry in state["saved"]}
    painted = np.zeros((128, 128), np.float32)
    painted[25:45, 45:65] = 1
    desk.do(ask.Mask(session, mask_png(painted)), page)
    desk.do(ask.Drag(session, OTHER), page)
    page.rest(at=2)
    desk.do(ask.Save(session), page)
    page.until(lambda later: later["phase"] == "ready" and later["saved"] and later["revision"] > state["revision"] + 3)
    again = [str(PHOTO), f"out={tmp_path / 'again'}", f"generator.path={generator}"]
    assert main(["replay", files["recipe"], *again]) == 0
    (again,) = (tmp_path / "again").glob("*/result.png")
    assert again.read_bytes() == Path(files["photo"]).read_bytes()


def test_an_edit_that_was_ended_by_hand_is_told_with_its_steps_whatever_it_calls_its_end(
    desk: Desk, page: ListeningPage
) -> None:
    """A preset that is ended in the middle of an attempt may be seen to have arrived, where it would have gone on."""

    class Ended(EditConsole):
        ended_by_hand = True

    session = session_of(desk)
    desk.do(ask.Drag(session, OTHER), page)
    page.rest(at=1)
    sitting = desk._work._sittings[session]
    made = sitting.edit([], sitting.told_points(DRAG), Ended(False, True))
    assert made is not None
    told, stored = made
    assert stored.value.edited.stop_reason == "cap"
    assert told["stop_after"] == 8 and stored.value.told == (told,)


def test_a_held_edit_waits_steps_and_goes_on(desk: Desk, page: ListeningPage) -> None:
    session = session_of(desk)
    desk.do(ask.Drag(session, DRAG, paused=True), page)
    page.until(lambda state: state["phase"] == "paused")
    with pytest.raises(UsageError, match="at work"):
        desk.do(ask.Drag(session, OTHER), page)
    assert not page.frames
    desk.do(ask.Step(session), page)
    page.until_frames(1)
    desk.do(ask.Go(session), page)
    assert page.rest(at=1)["edits"][0]["steps"] == 8


def test_what_is_steered_is_the_edit_even_before_it_has_begun(generator: Path, out: Path) -> None:
    """Pictures of a session that was just opened are still made then, and no edit is."""
    desk, page = Desk(settings(generator, out), Limits()), ListeningPage()
    session = session_of(desk)
    with desk._tasks._turns.turn():
        desk.do(ask.Watch(session), page)
        desk.do(ask.Drag(session, DRAG, paused=True), page)
        desk.do(ask.Step(session), page)
        desk.do(ask.Step(session), page)
        assert page.states[-1]["phase"] == "paused" and not page.frames
    page.until_frames(2)
    desk.do(ask.Undo(session), page)
    assert page.rest(at=0)["edits"] == []
    desk.close()


def test_targets_move_while_a_drag_runs(desk: Desk, page: ListeningPage) -> None:
    session = session_of(desk)
    desk.do(ask.Drag(session, DRAG, paused=True), page)
    page.until(lambda state: state["phase"] == "paused")
    desk.do(ask.Step(session), page)
    page.until_frames(1)
    here = page.frames[-1].header["points"][0]
    desk.do(ask.Retarget(session, ((*here, here[0], here[1] + 9),)), page)
    page.until(lambda state: state["phase"] == "paused" and len(state["edits"]) == 1)
    desk.do(ask.Go(session), page)
    state = page.rest(at=2)
    assert [edit["stop"] for edit in state["edits"]] == ["stopped", "cap"]


def test_undo_in_the_middle_of_a_drag_leaves_no_trace(desk: Desk, page: ListeningPage) -> None:
    session = session_of(desk)
    desk.do(ask.Drag(session, DRAG, paused=True), page)
    page.until(lambda state: state["phase"] == "paused")
    desk.do(ask.Undo(session), page)
    assert page.rest(at=0)["edits"] == []


def test_an_edit_after_an_undo_replaces_what_was_undone(desk: Desk, page: ListeningPage) -> None:
    session = session_of(desk)
    desk.do(ask.Drag(session, DRAG), page)
    page.rest(at=1)
    desk.do(ask.Direction(session, "pca:0", 1.0), page)
    page.rest(at=2)
    desk.do(ask.Jump(session, 0), page)
    page.rest(at=0)
    desk.do(ask.Drag(session, OTHER), page)
    assert len(page.rest(at=1)["edits"]) == 1
    with pytest.raises(UsageError, match="no undone edit"):
        desk.do(ask.Redo(session), page)


def test_points_outside_the_face_are_refused_in_a_sentence(desk: Desk, page: ListeningPage) -> None:
    session = session_of(desk)
    desk.do(ask.Drag(session, ((5.0, 500.0, 9.0, 500.0),)), page)
    state = page.until(lambda state: state["failed"] and state["phase"] == "ready")
    assert state["sentence"].endswith(".") and state["at"] == 0
    desk.do(ask.Drag(session, DRAG), page)
    assert page.rest(at=1)["failed"] is False


def test_a_restart_keeps_sessions_edits_and_what_was_saved(
    generator: Path, out: Path, desk: Desk, page: ListeningPage
) -> None:
    session = session_of(desk)
    desk.do(ask.Drag(session, DRAG), page)
    page.rest(at=1)
    desk.do(ask.Save(session), page)
    page.until(lambda state: state["saved"] and state["phase"] == "ready")
    desk.close()
    later, again = Desk(settings(generator, out), Limits()), ListeningPage()
    assert later.hello()["recent"][0]["edits"] == 1
    later.do(ask.Watch(session), again)
    state = again.rest(at=1)
    assert state["edits"][0]["stop"] == "cap" and state["patch"] is not None
    assert later.download(state["saved"][0]["url"].rpartition("/")[2]) is not None
    later.close()


def test_two_sessions_at_once_do_not_mix(desk: Desk, page: ListeningPage) -> None:
    first, other = session_of(desk), ListeningPage()
    desk.do(ask.Sample(5), other)
    second = other.rest()["session"]
    assert second != first and other.states[-1]["generated"]
    desk.do(ask.Drag(first, DRAG, paused=True), page)
    page.until(lambda state: state["phase"] == "paused")
    size = other.states[-1]["photo"]["width"]
    desk.do(ask.Drag(second, ((size / 2, size / 2, size / 2 + 6, size / 2),)), other)
    assert other.rest(at=1)["session"] == second
    desk.do(ask.Go(first), page)
    assert page.rest(at=1)["session"] == first
    assert {state["session"] for state in page.states} == {first}
    assert {frame.header["session"] for frame in other.frames} == {second}


def test_a_generated_picture_is_saved_as_a_picture(desk: Desk) -> None:
    page = ListeningPage()
    desk.do(ask.Sample(3), page)
    state = page.rest()
    session, size = state["session"], state["photo"]["width"]
    desk.do(ask.Drag(session, ((size / 2, size / 2, size / 2 + 6, size / 2),)), page)
    page.rest(at=1)
    desk.do(ask.Save(session), page)
    state = page.until(lambda state: state["saved"] and state["phase"] == "ready")
    with Image.open(state["saved"][0]["path"]) as picture:
        assert picture.size == (size, size)


def test_a_recipe_is_replayed_edit_by_edit(desk: Desk, page: ListeningPage) -> None:
    session = session_of(desk)
    recipe = {"photodrag_edits": 1, "edits": [{"points": [[0.5, 0.6, 0.6, 0.6]]}, {"direction": "pca:1"}]}
    desk.do(ask.Replay(session, json.dumps(recipe)), page)
    state = page.rest(at=2)
    assert [edit["kind"] for edit in state["edits"]] == ["points", "direction"]


NO_RECIPES = (
    "",
    "[]",
    "{}",
    '{"photodrag_edits": 1, "edits": []}',
    '{"photodrag_edits": 1, "edits": [{"like": "/etc/passwd"}]}',
    '{"photodrag_edits": 1, "edits": [{"run": "it"}]}',
    '{"photodrag_recipe": 1, "edits": 7}',
)


@pytest.mark.parametrize("text", NO_RECIPES)
def test_what_is_no_recipe_is_refused(desk: Desk, page: ListeningPage, text: str) -> None:
    with pytest.raises(UsageError):
        desk.do(ask.Replay(session_of(desk), text), page)


def test_a_preparation_that_is_stopped_goes_on_from_its_checkpoint(generator: Path, tmp_path: Path) -> None:
    desk, page = Desk(settings(generator, tmp_path), Limits()), ListeningPage()
    session = desk.open_file(PHOTO)
    desk.do(ask.Watch(session), page)
    page.until(lambda state: state["progress"] is not None and state["progress"]["stage"] == "invert")
    desk.do(ask.Stop(session), page)
    state = page.rest()
    assert state["phase"] in ("choosing", "ready")  # ready: it was done before the stop came
    if state["phase"] == "choosing":
        desk.do(ask.Face(session, 0), page)
        page.until(lambda state: state["phase"] == "ready")
    desk.close()


def test_a_photo_without_a_face_is_told_in_a_sentence(generator: Path, tmp_path: Path) -> None:
    photo = tmp_path / "grey.png"
    Image.fromarray(np.full((200, 200, 3), 120, np.uint8)).save(photo)
    desk, page = Desk(settings(generator, tmp_path / "out"), Limits()), ListeningPage()
    desk.do(ask.Watch(desk.open_file(photo)), page)
    state = page.until(lambda state: state["phase"] == "failed")
    assert state["failed"] and "No face was found" in state["sentence"]
    desk.close()


def test_of_several_faces_one_is_chosen(generator: Path, tmp_path: Path) -> None:
    portrait = read_photo(PHOTO).pixels
    photo = tmp_path / "two.png"
    Image.fromarray(np.hstack([portrait, portrait])).save(photo)
    desk, page = Desk(settings(generator, tmp_path / "out"), Limits()), ListeningPage()
    session = desk.open_file(photo)
    desk.do(ask.Watch(session), page)
    state = page.until(lambda state: state["phase"] == "choosing" and len(state["faces"]) > 1)
    count = len(state["faces"])
    with pytest.raises(UsageError, match="not prepared"):
        desk.do(ask.Drag(session, DRAG), page)
    with pytest.raises(UsageError, match=f"{count} faces"):
        desk.do(ask.Face(session, count), page)
    desk.do(ask.Face(session, 1), page)
    state = page.until(lambda state: state["phase"] == "ready")
    assert [face["prepared"] for face in state["faces"][:2]] == [False, True]
    desk.do(ask.Face(session, 0), page)
    other = page.until(lambda state: state["phase"] == "ready" and state["session"] != session)
    assert other["face"] == 0 and other["faces"][0]["prepared"]
    desk.close()


def test_an_upload_is_kept_below_the_studios_folder(generator: Path, tmp_path: Path) -> None:
    desk, page = Desk(settings(generator, tmp_path / "out"), Limits()), ListeningPage()
    arrived = tmp_path / "arrived"
    shutil.copy(PHOTO, arrived)
    photo = desk.add_photo(arrived, "..\\Grüße <b>.png")
    assert not arrived.exists()
    (kept,) = (tmp_path / "out" / "studio" / "photos" / photo).glob("*.png")
    assert kept.read_bytes() == PHOTO.read_bytes()
    desk.do(ask.Open(photo), page)
    assert page.rest()["name"] == "..\\Grüße <b>.png"
    text = tmp_path / "text"
    text.write_text("no photo")
    with pytest.raises(PhotoError):
        desk.add_photo(text, "me.jpg")
    assert not text.exists()
    desk.close()


def test_what_is_not_there_is_told(desk: Desk, page: ListeningPage) -> None:
    session = session_of(desk)
    for request in (ask.Watch("nobody"), ask.Open("nothing"), ask.Save(session), ask.Undo(session), ask.Go(session)):
        with pytest.raises(PhotodragError):
            desk.do(request, page)
    with pytest.raises(UsageError, match="models download"):
        desk.do(ask.Generator(session, "stylegan2-ffhq-512"), page)
    assert desk.picture("nothing") is None and desk.download("nothing") is None
    with pytest.raises(UsageError):
        desk.region(session, "result", (600, 0, 700, 10), 1.0)
    desk.do(ask.Forget(session), page)
    assert desk.hello()["recent"] == []


def test_memory_holds_the_last_sessions_only_and_the_others_come_back(desk: Desk, page: ListeningPage) -> None:
    session = session_of(desk)
    desk.do(ask.Drag(session, DRAG), page)
    patch = page.rest(at=1)["patch"]
    assert patch is not None
    desk.leave(page)
    for seed in range(MOST_SITTINGS):
        other = ListeningPage()
        desk.do(ask.Sample(seed), other)
        other.rest()
        desk.leave(other)
    assert session not in desk._work._sittings and len(desk._work._sittings) == MOST_SITTINGS
    assert desk.picture(patch["url"].rpartition("/")[2]) is None
    again = ListeningPage()
    desk.do(ask.Watch(session), again)
    state = again.rest(at=1)
    assert {name: state["patch"][name] for name in "xywh"} == {name: patch[name] for name in "xywh"}
    assert picture_of(desk, state["patch"]["url"]).shape[2] == 4


def test_small_pictures_keep_their_addresses_until_they_change(desk: Desk, page: ListeningPage) -> None:
    first = desk.hello()["recent"][0]["thumb"]
    assert desk.hello()["recent"][0]["thumb"] == first
    desk.do(ask.Drag(session_of(desk), DRAG), page)
    page.rest(at=1)
    assert desk.hello()["recent"][0]["thumb"] != first


def test_a_preset_on_a_generated_picture_ends_in_a_face_or_a_sentence(desk: Desk) -> None:
    page = ListeningPage()
    desk.do(ask.Sample(1), page)
    session = page.rest()["session"]
    desk.do(ask.Preset(session, "smile", 1.0), page)
    state = page.until(lambda state: state["phase"] == "ready" and (state["failed"] or state["at"] == 1))
    assert state["at"] == 1 or "face" in state["sentence"]
