"""Retouching from Python: the example notebook runs, pictures show themselves, and the command line makes the same."""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import json
import re
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from data.errors import NoFaceError, OutputError, PhotodragError, PhotoError, UsageError
from data.photo import read_mask, read_photo
from pipeline import displaying
from pipeline.cli import main
from pipeline.displaying import MAX_SIDE_PX, LivePicture, Picture, picture
from pipeline.notebook import Retouch, open_photo, sample_photo
from pipeline.painted import MOST_SIDE_PX, painted_mask, travelling_mask
from pipeline.pictures import png_bytes
from tests.notebooks import NOTEBOOK, read_cells, run_notebook, source_of
from tests.runs import PHOTO, POINTS, manifest_of, run_dir

PREPARING = [
    *("threads=1", "progress=false", "measure.metrics=false"),
    *("invert.steps=6", "invert.start_samples=4", "invert.w_stats_samples=50", "invert.checkpoint_every=2"),
    *("tune.steps=6", "tune.checkpoint_every=2", "invert.weights.perceptual=0", "tune.weights.perceptual=0"),
]
DRAGGING = ["edit.steps=8", "edit.lr=0.05"]
OTHER_POINTS = [[200.0, 120.0, 190.0, 118.0]]


def settings(generator: Path, out: Path) -> list[str]:
    return [*PREPARING, *DRAGGING, f"generator.path={generator}", f"out={out}"]


@pytest.fixture(autouse=True)
def no_charts(finished_out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chart of the losses, on which a short run spends half of its time, is no concern of these tests."""
    monkeypatch.setattr("pipeline.products.run_curves", lambda histories: png_bytes(np.zeros((2, 2, 3), np.uint8)))


@pytest.fixture
def photo(generator: Path, out: Path) -> Retouch:
    """The sample photo on the tiny generator, prepared by the finished run before."""
    return open_photo(PHOTO, *settings(generator, out))


@pytest.fixture(scope="module")
def untouched(generator: Path, finished_out: Path, tmp_path_factory: pytest.TempPathFactory) -> Retouch:
    """The same for tests that make no edit."""
    out = shutil.copytree(finished_out, tmp_path_factory.mktemp("untouched") / "out")
    return open_photo(PHOTO, *settings(generator, out))


def size_of(content: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(content)) as opened:
        return opened.size


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def nearly(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether pictures differ by rounding, at a pixel or two by a little more: what is shown is blended on a part of
    the photo, whose places are other numbers."""
    difference = np.abs(one.astype(int) - other)
    return bool(difference.max() <= 4 and (difference > 1).sum() <= 6)


# The example notebook


def test_every_cell_of_the_notebook_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = [*PREPARING, "tune.steps=2", "edit.steps=3", "edit.method=points"]
    monkeypatch.setenv("PHOTODRAG_QUICK", " ".join(quick))
    namespace: dict[str, Any] = {}
    shown = run_notebook(namespace)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "astronaut_retouched.png",
        "astronaut_retouched.png.photodrag.json",
        "photodrag_runs",
    ]
    recipe = json.loads((tmp_path / "astronaut_retouched.png.photodrag.json").read_text())
    assert [sorted(edit) for edit in recipe["edits"]] == [["method", "preset", "strength"], ["method", "points"]]
    assert recipe["result"]["sha256"] == sha256(tmp_path / "astronaut_retouched.png")
    retouch = namespace["photo"]
    assert shown["open"] is retouch
    assert len(shown["edits"]) == len(shown["redo"]) == 2
    assert shown["session-undo"] == ()
    assert shown["save"] == ("astronaut_retouched.png", True)
    for name in ("look", "smile", "ask", "undo"):
        assert isinstance(shown[name], Picture)
    before, after = read_photo(sample_photo()).to_u8(), read_photo(tmp_path / "astronaut_retouched.png").to_u8()
    changed = (before != after).any(axis=2)
    assert 0 < changed.mean() < 0.2
    assert nearly(retouch.show().pixels, after)
    assert "step 1:" in capsys.readouterr().out  # of the single steps, as there is no notebook to draw in


def test_the_notebook_is_one_that_programs_read() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = read_cells()
    names = [cell["id"] for cell in cells]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-zA-Z0-9-_]{1,64}", name) for name in names)
    for cell in cells:
        extra = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert set(cell) == {"cell_type", "id", "metadata", "source"} | extra
    assert "PHOTODRAG_QUICK" in source_of(next(cell for cell in cells if cell["id"] == "settings"))


def test_the_notebook_keeps_small_pictures_and_tells_of_no_machine() -> None:
    outputs = [output for cell in read_cells() for output in cell.get("outputs", [])]
    kinds = {output["output_type"] for output in outputs}
    assert kinds <= {"stream", "execute_result", "display_data"}
    assert all(output["name"] == "stdout" for output in outputs if output["output_type"] == "stream")
    pictures = [
        data for output in outputs for kind, data in output.get("data", {}).items() if kind.startswith("image/")
    ]
    assert len(pictures) >= 6
    for data in pictures:
        assert max(size_of(base64.b64decode(data))) <= MAX_SIDE_PX
    assert NOTEBOOK.stat().st_size < 600_000
    texts = [json.dumps({**output, "data": output.get("data", {}).get("text/plain")}) for output in outputs]
    assert not [text for text in texts if "/root" in text or "/home" in text or "/tmp" in text]


# The same as the command line


def test_a_drag_is_the_command_lines_to_the_bit(finished_out: Path, generator: Path, tmp_path: Path) -> None:
    retouch = open_photo(PHOTO, *settings(generator, tmp_path / "own"))
    retouch.drag(POINTS)
    saved = retouch.save(tmp_path / "saved.png")
    here, there = run_dir(tmp_path / "own"), run_dir(finished_out)
    assert saved == tmp_path / "saved.png"
    assert saved.read_bytes() == (there / "result.png").read_bytes()
    assert manifest_of(here)["faces"][0]["keys"] == manifest_of(there)["faces"][0]["keys"]
    assert (here / "edit.mp4").read_bytes() == (there / "edit.mp4").read_bytes()


def test_a_row_of_edits_with_a_mask_is_the_command_lines(generator: Path, out: Path, tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    cv2.imwrite(str(mask), cv2.circle(np.zeros((512, 512), np.uint8), (220, 125), 40, 200, -1))
    retouch = open_photo(PHOTO, *settings(generator, out))
    retouch.preset("smile", 0.5)
    retouch.drag(OTHER_POINTS, mask=mask)
    saved = retouch.save(tmp_path / "here.png")
    folder = run_dir(out)
    again = [f"from={folder}", "stages=[edit,blend]", "progress=false", "threads=1", *DRAGGING]
    replay = f"edit.replay={folder / 'edits.json'}"
    rows = [
        ["edit=smile", "edit.strength=0.5"],
        [f"edit.points={OTHER_POINTS}".replace(" ", ""), f"edit.mask={mask}", replay],
    ]
    for words in rows:
        assert main([*again, *words]) == 0
    assert (folder / "result.png").read_bytes() == saved.read_bytes()
    painted = retouch.edits[-1].told["mask"]
    assert np.array_equal(painted_mask(painted, (512, 512)), read_mask(mask, (512, 512)))


def test_a_session_makes_what_the_drag_makes(photo: Retouch) -> None:
    photo.direction("pca:0", 1.0)
    session = photo.session
    assert photo.session is session
    session.start(*photo.in_crop(POINTS))
    session.run()
    photo.drag(POINTS)
    assert photo.session is not session
    assert torch.equal(photo.session.w, session.w)
    assert photo.edits[-1].steps == session.edits[-1].steps
    assert photo.session.edits == ()


# Edits


def test_edits_are_undone_and_made_again(photo: Retouch, tmp_path: Path) -> None:
    first = photo.show().pixels
    assert photo.edits == ()
    with pytest.raises(UsageError, match="no edit to undo"):
        photo.undo()
    with pytest.raises(UsageError, match="no edit to save"):
        photo.save(tmp_path / "none.png")
    photo.drag(POINTS)
    one = photo.show().pixels
    photo.drag(OTHER_POINTS)
    two = photo.show().pixels
    assert len({picture.tobytes() for picture in (first, one, two)}) == 3
    photo.undo()
    assert np.array_equal(photo.show().pixels, one)
    assert len(photo.edits) == 1
    photo.undo()
    assert np.array_equal(photo.show().pixels, first)
    photo.redo()
    photo.redo()
    assert np.array_equal(photo.show().pixels, two)
    with pytest.raises(UsageError, match="no undone edit"):
        photo.redo()
    photo.undo()
    photo.direction("pca:0", 0.5)
    assert [sorted(edit.told) for edit in photo.edits] == [["points"], ["direction", "strength"]]
    with pytest.raises(UsageError, match="no undone edit"):
        photo.redo()
    saved = photo.save(tmp_path / "two.png")
    assert nearly(read_photo(saved).to_u8(), photo.show().pixels)


def test_the_second_time_nothing_is_computed(
    photo: Retouch, generator: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo.drag(POINTS)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("stage.json")}
    capsys.readouterr()
    again = open_photo(PHOTO, *settings(generator, out))
    again.drag(POINTS[0])
    assert again.edits[0].key == photo.edits[0].key
    assert {path: path.stat().st_mtime_ns for path in out.rglob("stage.json")} == before
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("invert")] == [
        "invert, face 1: reused"
    ]


def test_other_settings_leave_an_opened_photo_as_it_is(photo: Retouch, generator: Path, out: Path) -> None:
    other = open_photo(PHOTO, *settings(generator, out), "tune.steps=3")
    photo.drag(POINTS)
    other.drag(POINTS)
    saved = photo.save(), photo.save(), other.save()
    assert saved[0] == saved[1] == run_dir(out) / "astronaut_edited.png"
    assert photo.edits[0].key != other.edits[0].key
    assert manifest_of(run_dir(out))["faces"][0]["keys"]["edit"] == other.edits[0].key
    photo.save()
    assert manifest_of(run_dir(out))["faces"][0]["keys"]["edit"] == photo.edits[0].key


def test_opening_a_photo_leaves_what_was_saved(photo: Retouch, generator: Path, out: Path) -> None:
    photo.drag(POINTS)
    saved = photo.save()
    open_photo(PHOTO, *settings(generator, out))
    assert saved.is_file()
    assert saved.with_name(f"{saved.name}.photodrag.json").is_file()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda photo: photo.drag([[1, 2, 3]]), r"shape \[1, 3\]"),
        (lambda photo: photo.drag([]), r"shape \[0\]"),
        (lambda photo: photo.drag([[1, 2, 3, float("nan")]]), "all finite"),
        (lambda photo: photo.drag("smile"), "allowed are numbers"),
        (lambda photo: photo.drag([[5, 500, 9, 500]]), r"handle \(5, 500\) of edit.points lies outside"),
        (lambda photo: photo.drag([[220, 130, 220, 500]]), "outside the aligned crop"),
        (lambda photo: photo.preset("smil"), "did you mean smile"),
        (lambda photo: photo.preset("smile", 9), r"edit\.strength is 9"),
        (lambda photo: photo.preset("smile", "much"), "strength is 'much'"),
        (lambda photo: photo.drag(POINTS, mask=[["a"]]), "no numbers"),
        (lambda photo: photo.direction("up", 1), r"edit\.direction is up"),
        (lambda photo: photo.direction("pca:99", 1), r"edit\.direction is pca:99"),
        (lambda photo: photo.drag(POINTS, mask=np.ones((5, 5))), r"\[height, width\] of the photo, \[512, 512\]"),
        (lambda photo: photo.drag(POINTS, mask=np.zeros((512, 512))), "0 everywhere"),
        (lambda photo: photo.drag(POINTS, mask=np.full((512, 512), 3)), "outside 0 to 1"),
        (lambda photo: photo.drag(POINTS, mask="nowhere.png"), "no photo 'nowhere.png'"),
        (lambda photo: photo.live(), "needs either points"),
        (lambda photo: photo.live(POINTS, preset="smile"), "needs either points"),
        (lambda photo: photo.points([[1, 2]]), "allowed are drags"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(
    untouched: Retouch, make: Callable[[Retouch], object], sentence: str
) -> None:
    with pytest.raises(PhotodragError, match=sentence) as caught:
        make(untouched)
    assert "\n" not in str(caught.value)
    assert untouched.edits == ()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["edit=smile"], r"^edit\.preset is set: open_photo"),
        (["edit.points=[[1,2,3,4]]"], r"^edit\.points is set"),
        (["photo=other.jpg"], "^photo is set"),
        (["align.face=all"], "one face is retouched at a time"),
        (["invert.stepz=3"], "invert.steps"),
        (["generator.path=nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_settings_that_open_nothing_are_one_sentence(tmp_path: Path, overrides: list[str], sentence: str) -> None:
    with pytest.raises(PhotodragError, match=sentence):
        open_photo(PHOTO, *overrides, f"out={tmp_path}")
    assert not list(tmp_path.iterdir())


def test_photos_without_a_face_or_a_file_are_one_sentence(tmp_path: Path, generator: Path) -> None:
    with pytest.raises(PhotoError, match="There is no photo"):
        open_photo(tmp_path / "nowhere.jpg")
    grey = tmp_path / "grey.png"
    cv2.imwrite(str(grey), np.full((200, 200, 3), 128, np.uint8))
    with pytest.raises(NoFaceError):
        open_photo(grey, *settings(generator, tmp_path / "out"))
    faceless = open_photo(grey, *settings(generator, tmp_path / "out"), "align=center")
    assert faceless.points([[90, 90, 100, 90]]).size == (720, 720)
    with pytest.raises(NoFaceError, match="give points by hand"):
        print(faceless.landmarks)
    with pytest.raises(NoFaceError, match="give points by hand"):
        faceless.preset("smile")


# Pictures


def test_small_pictures_are_shown_without_loss_and_large_ones_bounded() -> None:
    small = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    png = Picture(small)._repr_png_()
    assert png is not None and size_of(png) == (256, 256)
    assert Picture(small)._repr_jpeg_() is None
    large = Picture(np.zeros((3000, 1500, 3), np.uint8))
    jpeg = large._repr_jpeg_()
    assert jpeg is not None and size_of(jpeg) == (512, 1024)
    assert large._repr_png_() is None
    strip = Picture(np.zeros((2, 900, 3), np.uint8))._repr_jpeg_()
    assert strip is not None and max(size_of(strip)) <= MAX_SIDE_PX
    assert repr(large) == "<picture of 1500 x 3000 pixels>"


def test_a_generators_picture_is_one(tmp_path: Path) -> None:
    image = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    shown = picture(image)
    assert shown.size == (16, 16)
    assert shown.pixels.min() == 0 and shown.pixels.max() == 255
    saved = shown.save(tmp_path / "face.png")
    assert np.array_equal(picture(read_photo(saved).to_u8()).pixels, shown.pixels)
    for wrong in (torch.zeros(3, 8, 8), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3))):
        with pytest.raises(UsageError, match="A picture is"):
            picture(wrong)
    with pytest.raises(UsageError, match=r"allowed are \.png"):
        shown.save(tmp_path / "face.bmp")
    with pytest.raises(OutputError, match="cannot be written"):
        shown.save(tmp_path / "nowhere" / "face.png")


def test_the_pictures_of_a_photo(photo: Retouch) -> None:
    whole = read_photo(PHOTO).to_u8()
    assert np.array_equal(photo.show().pixels, whole)
    assert photo.show(max_px=100).size == (100, 100)
    plain = photo.points().pixels
    asked = photo.points(POINTS).pixels
    assert (plain != asked).any()
    assert photo._repr_jpeg_() is not None and photo._repr_png_() is None
    shown = photo.drag(POINTS)
    assert np.array_equal(shown.pixels, photo.before_after().pixels)
    assert (photo.points().pixels != plain).any()
    assert photo.preview(photo.session.render()).size == (183, 182)
    landmarks = photo.landmarks
    assert landmarks.shape == (68, 2)
    landmarks += 100
    assert (photo.landmarks != landmarks).all(), "what a caller does with them changes nothing"
    assert repr(photo) == "<astronaut.png with 1 edits>"
    assert repr(photo.edits[0]).startswith("<drag of 1 points: ")


class FakeNotebook:
    """IPython as far as a live picture needs it: what was displayed, and what took its place."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, running: bool = True) -> None:
        self.displayed: list[Any] = []
        self.updated: list[Any] = []
        names = ("IPython", "IPython.core", "IPython.core.getipython", "IPython.display")
        modules = {name: types.ModuleType(name) for name in names}
        modules["IPython.core.getipython"].get_ipython = lambda: self if running else None  # type: ignore[attr-defined]
        modules["IPython.display"].display = self.display  # type: ignore[attr-defined]
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)

    def display(self, shown: Any, display_id: bool) -> FakeNotebook:
        assert display_id
        self.displayed.append(shown)
        return self

    def update(self, shown: Any) -> None:
        self.updated.append(shown)


def test_a_live_drag_changes_one_picture(photo: Retouch, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = FakeNotebook(monkeypatch)
    made = photo.live(OTHER_POINTS, every_s=0)
    assert made is photo.edits[0]
    assert len(notebook.displayed) == 1
    assert notebook.updated
    assert all(isinstance(shown, Picture) for shown in notebook.displayed + notebook.updated)
    assert np.array_equal(notebook.updated[-1].pixels, photo.before_after().pixels)
    photo.live(preset="smile", strength=0.3)
    assert len(notebook.displayed) == 2
    photo.undo()
    photo.undo()
    photo.drag(OTHER_POINTS)
    assert photo.edits[0].key == made.key


@pytest.mark.parametrize("here", [False, True], ids=["no IPython", "no notebook"])
def test_outside_a_notebook_a_live_drag_prints_a_line(
    photo: Retouch, here: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if here:
        FakeNotebook(monkeypatch, running=False)
    else:
        monkeypatch.setitem(sys.modules, "IPython", None)
    capsys.readouterr()
    made = photo.live(POINTS)
    assert capsys.readouterr().out == f"{made!r}\n"
    LivePicture().update(np.zeros((4, 4, 3), np.uint8), "a line")
    assert capsys.readouterr().out == "a line\n"


def test_the_module_needs_no_notebook_packages() -> None:
    tree = ast.parse(Path(displaying.__file__).read_text(encoding="utf-8"))
    names = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert names and not [name for name in names if "IPython" in name]


# Masks that travel


def test_a_large_mask_travels_small_and_keeps_its_black() -> None:
    mask = np.zeros((600, 5000), np.float32)
    mask[200:400, 1000:3000] = 1
    told = travelling_mask(mask, "0" * 64)
    with Image.open(io.BytesIO(base64.b64decode(told["png"]))) as small:
        assert max(small.size) == MOST_SIDE_PX
    back = painted_mask(told, mask.shape)
    assert not back[mask == 0].any()
    assert back[mask == 1].mean() > 0.9


def test_a_mask_may_be_bool_or_bytes_or_shares(photo: Retouch) -> None:
    inside = np.zeros((512, 512), bool)
    inside[90:160, 180:260] = True
    keys = []
    for mask in (inside, inside.astype(np.uint8) * 255, inside.astype(float)):
        photo.drag(POINTS, mask=mask)
        keys.append(photo.edits[0].key)
        photo.undo()
    assert len(set(keys)) == 1
    changed = (photo.show().pixels != read_photo(PHOTO).to_u8()).any(axis=2)
    photo.redo()
    changed = (photo.show().pixels != read_photo(PHOTO).to_u8()).any(axis=2)
    assert changed.any()
    assert not changed[~inside].any()
