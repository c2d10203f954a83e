"""Recipes: what they tell, that a replay ends in the same bytes, and that a bad one ends in a sentence."""

from __future__ import annotations

import base64
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from data.errors import UsageError
from data.files import file_sha256
from inversion.generators.checkpoint import save_generator
from pipeline import cli
from pipeline.edits import read_edits
from pipeline.foreign_json import printable
from pipeline.recipe import MOST_MASK_BYTES, read_recipe, recipe_json, without_paths
from pipeline.replaying import open_replay
from pipeline.run import run
from pipeline.schema import BlendConfig, EditConfig, RunConfig, compose
from pipeline.settings_text import differing_settings, override
from tests.runs import CHAIN, PHOTO, POINTS, manifest_of, run_dir, short_config, stage_entries
from tests.tiny import tiny_generator

SUFFIX = ".photodrag.json"


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder with a photo, its generator, and the result of a run with a mask and two edits, and its recipe."""

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / f"me_edited.png{SUFFIX}"

    @property
    def content(self) -> dict[str, Any]:
        return json.loads(self.recipe.read_text(encoding="utf-8"))

    def change(self, edit: Callable[[dict[str, Any]], object]) -> None:
        content = self.content
        edit(content)
        self.recipe.write_text(json.dumps(content), encoding="utf-8")

    def replay(self, *words: str, recipe: Path | None = None) -> int:
        out = f"out={self.folder / 'again'}"
        return cli.main(["replay", str(recipe or self.recipe), *words, out, "progress=false"])


@pytest.fixture(scope="session")
def made(generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two edits in a row, the second by hand and masked, saved beside the photo; the mask's file is gone again."""
    folder = tmp_path_factory.mktemp("recipes") / "made"
    folder.mkdir()
    shutil.copy(PHOTO, folder / "me.png")
    shutil.copy(generator, folder / "tiny.safetensors")
    mask = np.zeros((512, 512), np.uint8)
    mask[:, :230] = 255
    cv2.imwrite(str(folder / "mask.png"), mask)
    edits = folder / "before.json"
    edits.write_text('{"photodrag_edits": 1, "edits": [{"direction": "pca:1", "strength": 0.5}, {"preset": "frown"}]}')
    edit = EditConfig(points=POINTS, steps=4, lr=0.05, mask=str(folder / "mask.png"), replay=str(edits), undo=1)
    config = short_config(
        folder / "tiny.safetensors", folder / "runs", photo=str(folder / "me.png"), save="beside", edit=edit
    )
    run(config)
    for name in ("mask.png", "before.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "runs")
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Place:
    return Place(Path(shutil.copytree(made, tmp_path / "moved")))


def texts_in(value: Any) -> list[str]:
    """Every text in a JSON value, keys among them."""
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in (key, *texts_in(item))]
    if isinstance(value, list):
        return [text for item in value for text in texts_in(item)]
    return [value] if isinstance(value, str) else []


def test_what_a_recipe_tells(place: Place, made: Path, generator: Path) -> None:
    content = place.content
    assert not [text for text in texts_in({**content, "files": {}}) if "/" in text]
    assert list(content) == sorted(content)
    assert content["photodrag_recipe"] == 1
    photo = {"name": "me.png", "sha256": file_sha256(PHOTO), "width": 512, "height": 512}
    assert content["photo"] == photo
    assert content["result"] == {"name": "me_edited.png", "sha256": file_sha256(place.folder / "me_edited.png")}
    facts = {"name": "file", "file": "tiny.safetensors", "sha256": file_sha256(generator)}
    assert content["models"]["generator"] == facts
    assert set(content["models"]) == {"generator", "perceptual", "landmarks", "face_network"}
    assert content["seeds"] == {"seed": 0}
    assert [list(told) for told in content["edits"]] == [["direction", "strength"], ["points"]]
    (face,) = content["faces"]
    assert (face["face_index"], face["crop_px"], len(face["landmarks"])) == (0, 64, 68)
    assert face["edits"][-1]["points"] == POINTS  # in photo pixels
    assert content["config"]["edit"]["points"] == POINTS
    assert "edit.points=[[220.0,130.0,235.0,130.0]]" in content["overrides"]
    mask = content["files"]["edit.mask"]
    assert mask["name"] == "mask.png"
    assert base64.b64decode(mask["base64"]).startswith(b"\x89PNG")
    for key in ("photo", "out", "save", "from_run"):
        assert key not in content["config"]


def test_the_same_run_has_the_same_recipe(out: Path, generator: Path) -> None:
    path = run_dir(out) / f"astronaut_edited.png{SUFFIX}"
    first = path.read_bytes()
    run(short_config(generator, out))
    assert path.read_bytes() == first


def test_a_replay_ends_in_the_same_bytes(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """From the recipe alone: the mask and the edit before travel in it; the photo and generator lie beside it."""
    before = {path.name: path.read_bytes() for path in place.folder.iterdir()}
    assert place.replay() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "replay: the result is bit for bit the recorded one"
    folder = run_dir(place.folder / "again")
    assert stage_entries(folder) == [(stage, False) for stage in CHAIN]
    assert (folder / "result.png").read_bytes() == (place.folder / "me_edited.png").read_bytes()
    again = json.loads((folder / f"me_edited.png{SUFFIX}").read_text(encoding="utf-8"))
    assert {key: again[key] for key in ("edits", "faces", "result")} == {
        key: place.content[key] for key in ("edits", "faces", "result")
    }
    shutil.rmtree(place.folder / "again")
    assert {path.name: path.read_bytes() for path in place.folder.iterdir()} == before


def test_other_settings_are_named_when_the_result_differs(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.replay("edit.points=[[220,130,205,140]]", "save=beside", "on_exists=skip", "edit.mask=null") == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == (
        "replay: the result differs from the recorded one: edit.points=[[220,130,205,140]] was given; edit.mask=null "
        "was given"
    )
    assert "is there already, so nothing is saved" in printed.err
    (told,) = [edit for edit in edits_of(place) if "points" in edit]
    assert told["points"] != place.content["edits"][-1]["points"]


def edits_of(place: Place) -> list[dict[str, Any]]:
    path = run_dir(place.folder / "again") / "edits.json"
    return json.loads(path.read_text(encoding="utf-8"))["edits"]


def test_a_choice_of_a_group_drops_what_is_recorded_of_it(place: Place) -> None:
    replay = open_replay(str(place.recipe), [], ["edit=direction", "edit.direction='pca:2'"], False)
    config = compose(replay.overrides)
    assert (config.edit.points, config.edit.direction, config.edit.steps) == ([], "pca:2", EditConfig().steps)
    assert config.edit.mask is None
    assert config.edit.replay is not None and config.invert.steps == 6


def test_another_photo_must_be_named_and_gets_the_edits(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    picture = Image.open(PHOTO).convert("RGB").crop((0, 0, 400, 400)).resize((600, 600))
    other = place.folder / "other.png"
    picture.save(other)
    assert place.replay(str(other)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        f"replay: {other} is not the recorded me.png: its edits are made at the same places of this photo's face; "
        "edit.mask belong to the recorded photo and are left out"
    )
    assert lines[-1] == "replay: the edits were made on another photo, so there is no recorded result to compare with"
    assert edits_of(place) == place.content["edits"]
    picture.save(place.folder / "me.png")
    assert place.replay() == 2
    assert "me.png is not the photo that" in capsys.readouterr().err
    (place.folder / "me.png").unlink()
    assert place.replay() == 2
    assert "The photo me.png is not beside" in capsys.readouterr().err


def test_another_generator_needs_a_word(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    save_generator(tiny_generator(resolution=64, channels=8, w_dim=16, seed=5), place.folder / "tiny.safetensors")
    assert place.replay() == 2
    assert "was made with the generator tiny.safetensors (sha256 " in capsys.readouterr().err
    given = f"generator.path={place.folder / 'tiny.safetensors'}"
    assert place.replay(given) == 1
    error = capsys.readouterr().err
    assert "was made with other models: generator is tiny.safetensors instead of tiny.safetensors" in error
    assert error.count("\n") == 1
    assert not (place.folder / "again").exists()
    assert place.replay(given, "--other-models") == 0
    assert "the result differs from the recorded one: generator is tiny" in capsys.readouterr().out


def test_a_continued_run_is_replayed_from_the_photo_on(
    generator: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Inversion and tuning are those of the first run, though the second one's settings do not name them."""
    saved = tmp_path / "saved"
    later = RunConfig(
        stages=["edit", "blend"],
        from_run=str(run_dir(out)),
        save=f"{saved}/",
        progress=False,
        edit=EditConfig(direction="pca:0", strength=1.5),
    )
    run(later)
    run(dataclasses.replace(later, stages=["blend"], edit=EditConfig(), blend=BlendConfig(feather=0.1)))
    for number in ("", "-2"):
        recipe = saved / f"astronaut_edited{number}.png{SUFFIX}"
        words = [f"generator.path={generator}", f"out={tmp_path / 'again'}", "progress=false", "resume=false"]
        assert cli.main(["replay", str(recipe), str(PHOTO), *words]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "replay: the result is bit for bit the recorded one"


def test_a_replay_in_the_run_folder_keeps_the_recipe_and_its_picture(out: Path, generator: Path) -> None:
    folder = run_dir(out)
    recipe = folder / f"astronaut_edited.png{SUFFIX}"
    before = recipe.read_bytes(), (folder / "astronaut_edited.png").read_bytes()
    words = [f"generator.path={generator}", f"out={out}", "progress=false", "edit.points=[[220,130,205,140]]"]
    for _ in range(2):
        assert cli.main(["replay", str(recipe), str(PHOTO), *words]) == 0
        assert (recipe.read_bytes(), (folder / "astronaut_edited.png").read_bytes()) == before
        assert (folder / f"astronaut_edited-2.png{SUFFIX}").is_file()
        assert not (folder / "astronaut_edited-3.png").exists()
    assert manifest_of(folder)["products"]["astronaut_edited.png"] is None


def set_in(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = value

    return change


HOSTILE = [
    (set_in("photodrag_recipe", value=2), "is a recipe of format 2, and this photodrag reads format 1: a newer"),
    (set_in("photodrag_recipe", value=True), "'photodrag_recipe' must be 1"),
    (set_in("photo", value=[]), "'photo' must have the name of a file without any folder"),
    (set_in("photo", "name", value="../me.png"), "'photo' must have the name of a file without any folder"),
    (set_in("photo", "name", value="/etc/passwd"), "'photo' must have the name of a file"),
    (set_in("photo", "sha256", value="00"), "'photo' must have a sha256 of 64 hexadecimal digits"),
    (set_in("result", "name", value=".."), "'result' must have the name of a file"),
    (set_in("config", "out", value="/tmp/elsewhere"), "'config' holds a path or a setting of a place"),
    (set_in("config", "edit", "mask", value="/etc/passwd"), "'config' holds a path"),
    (set_in("config", "edit", "replay", value="x"), "'config' holds a path"),
    (set_in("config", "invert", "mask", value="../mask.png"), "'config' holds a path"),
    (set_in("config", "generator", "path", value="x.safetensors"), "'config' holds a path"),
    (set_in("config", "invert", value=3), "invert is 3: allowed is a group of settings"),
    (set_in("config", "invert", "steps", value="${oc.env:HOME}"), "invert.steps is .*: allowed is a whole number"),
    (
        set_in("config", "invert", "steps", value="\x1b[31m" + "x" * 10**6),
        r"invert.steps is \\x1b\[31mxx.{100,300}\.\.\.$",
    ),
    (set_in("config", "invert", "steps", value=10**9), "invert.steps is 1000000000: allowed is a whole number"),
    (set_in("config", "hydra", value={"run": {"dir": "x"}}), "hydra is not a setting"),
    (set_in("config", "edit", "points", value=[[1, 2]]), "edit.points is"),
    (set_in("config", "edit", "direction", value="pca:0,hydra.run.dir=x"), "edit.direction is"),
    (set_in("edits", value={}), "'edits' must be a list"),
    (set_in("edits", value=[]), "'edits' is empty"),
    (set_in("edits", value=[{"strength": "x", "preset": "smile"}]), "edit 1 of .* cannot be made: edit.strength is x"),
    (set_in("edits", value=[{"direction": "\x1b" * 10**6}]), r"edit 1 of .* edit.direction is \\x1b.{100,300}\.\.\.$"),
    (set_in("edits", value=[{"like": "../you.png"}]), "the photo of edit 1 must be the name of a file"),
    (set_in("edits", value=[{"like": "you.png"}]), "'edit 1' must have a sha256"),
    (set_in("files", value={"out\x1b": {}}), r"files names out\\x1b; allowed are invert\.mask"),
    (set_in("files", "edit.mask", "base64", value="AAAA"), "content of 'files.edit.mask' is not what its sha256 says"),
    (set_in("files", "edit.mask", "base64", value="?"), "the content of 'files.edit.mask' is no base64"),
    (set_in("files", "edit.mask", "base64", value=7), "the content of 'files.edit.mask' is no base64"),
    (set_in("models", value={}), "'models' names no generator"),
    (set_in("models", "generator", "file", value="/x"), "'models.generator' must have a name"),
    (set_in("models", "generator", "name", value="a\x1b[31m"), "'models.generator' must have a name"),
    (set_in("models", "generator", "name", value="evil"), r"generator\.name is evil: allowed are"),
    (set_in("models", "perceptual", "name", value="evil"), r"perceptual\.name is evil: allowed are"),
    (set_in("threads", value=-1), "'threads' must be a count"),
    (set_in("versions", value=None), "'versions' must be an object"),
]


@pytest.mark.parametrize(("change", "sentence"), HOSTILE, ids=[sentence[:50] for _, sentence in HOSTILE])
def test_a_recipe_that_is_not_to_be_trusted_is_one_sentence(
    place: Place, change: Callable[[dict[str, Any]], None], sentence: str
) -> None:
    place.change(change)
    before = sorted(path.name for path in place.folder.iterdir())
    with pytest.raises(UsageError, match=sentence) as caught:
        compose(open_replay(str(place.recipe), [], [f"out='{place.folder / 'again'}'"], False).overrides)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in place.folder.iterdir()) == before


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b"[]", "it must hold 'photodrag_recipe': 1"),
        (b"{}", "it must hold 'photodrag_recipe': 1"),
        (b'{"photodrag_recipe": NaN}', "NaN is no number"),
        (b'{"photodrag_recipe": 1, "threads": 1e999}', "1e999 is no number that can be stored"),
        (b'{"photodrag_recipe": 1, "threads": ' + b"9" * 5000 + b"}", "too long for a number"),
        (b"[" * 100_000, "nested too deeply|cannot be read as JSON"),
        (b" " * 10_000_001, "larger than 10 MB"),
    ],
)
def test_files_that_are_no_recipe(place: Place, text: bytes, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    place.recipe.write_bytes(text)
    with pytest.raises(UsageError, match=sentence):
        read_recipe(place.recipe)
    assert place.replay() == 2
    error = capsys.readouterr().err
    assert error.startswith("photodrag: ") and error.count("\n") == 1
    assert not (place.folder / "again").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["replay"], "no recipe is given: write photodrag replay"),
        (["replay", "nowhere.json"], "nowhere.json is no file: give the .photodrag.json"),
        (["replay", "{recipe}", "a.png", "b.png"], "is given 2 photos: allowed is one behind the recipe"),
        (["replay", "{recipe}", "no.png"], "photo is no.png, which is no file"),
        (
            ["replay", "{recipe}", "from=x"],
            "photodrag replay cannot be given from=: a recipe is made from the photo on",
        ),
        (["replay", "{recipe}", "experiment=quick"], "photodrag replay cannot be given experiment="),
        (["replay", "{recipe}", "edit.stepz=3"], "edit.stepz is not a setting: did you mean edit.steps?"),
        (["replay", "-m", "{recipe}"], "-m is given to photodrag replay, which makes one result"),
        (["run", "{recipe}", "--other-models"], "--other-models is given to photodrag run: allowed is it with replay"),
    ],
)
def test_words_that_cannot_be_meant(
    place: Place, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([word.format(recipe=place.recipe) for word in words]) == 2
    assert sentence in capsys.readouterr().err


def test_the_settings_can_be_shown(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.replay(f"photo={place.folder / 'me.png'}", "--cfg", "job") == 0
    shown = capsys.readouterr().out
    assert "start_samples: 4" in shown
    assert not (place.folder / "again").exists()


def test_a_mask_that_does_not_travel_is_asked_for(place: Place, made: Path) -> None:
    content = base64.b64decode(place.content["files"]["edit.mask"]["base64"])
    assert len(content) < MOST_MASK_BYTES
    place.change(lambda recipe: recipe["files"]["edit.mask"].pop("base64"))
    with pytest.raises(UsageError, match=r"needs the picture mask\.png .* give it with edit\.mask=FILE"):
        open_replay(str(place.recipe), [], [], False)
    (place.folder / "mask.png").write_bytes(content)
    replay = open_replay(str(place.recipe), [], [], False)
    assert f"edit.mask='{place.folder / 'mask.png'}'" in replay.overrides
    assert [path.suffix for path in replay.brought] == [".json"]  # the edits before, and no mask


def test_the_photo_of_a_pose_must_lie_beside(place: Place) -> None:
    shutil.copy(PHOTO, place.folder / "you.png")
    told = {"like": "you.png", "like_sha256": file_sha256(PHOTO)}
    place.change(lambda recipe: recipe["edits"].insert(0, told))
    replay = open_replay(str(place.recipe), [], [], False)
    (path, content), *_ = [item for item in replay.brought.items() if item[0].suffix == ".json"]
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    edits = read_edits(EditConfig(replay=str(path)))
    assert edits == [{"like": str(place.folder / "you.png")}, {"direction": "pca:1", "strength": 0.5}]
    shutil.rmtree(path.parents[1])
    (place.folder / "you.png").unlink()
    with pytest.raises(UsageError, match=r"takes a pose from the photo you\.png .* put it beside the recipe"):
        open_replay(str(place.recipe), [], [], False)


def test_settings_survive_as_words() -> None:
    config = RunConfig(
        seed=7,
        stages=["align", "invert"],
        edit=EditConfig(points=[[1e-7, 2.5, 3.0, -4.0]], direction_layers="0-5"),
        blend=BlendConfig(format="webp"),
    )
    settings = differing_settings(dataclasses.asdict(config))
    assert set(settings) == {"seed", "stages", "edit.points", "edit.direction_layers", "blend.format"}
    assert compose([override(key, value) for key, value in settings.items()]) == config
    for text in ("null", "true", "a b", "${seed}", "it's\\", "1e5", "x,y=[1]"):
        assert compose([override("out", text)]).out == text


def test_paths_are_no_part_of_a_recipe_and_words_of_a_mask_are() -> None:
    for mask, kept in (("face", "face"), ("/home/me/mask.png", "none")):
        config = without_paths(dataclasses.asdict(compose([f"invert.mask={mask!r}", "photo=/x/y.png"])))
        assert config["invert"]["mask"] == kept
        assert "photo" not in config


def test_recipes_hold_any_name_and_show_it_safely() -> None:
    name = "é\udc80\x1b[31m\n.jpg"
    assert json.loads(recipe_json({"name": name, "rows": [[1.5, 2], [3]]})) == {"name": name, "rows": [[1.5, 2], [3]]}
    assert "[1.5, 2]" in recipe_json({"rows": [[1.5, 2]]}).decode()
    assert printable(name) == "é\\xdc80\\x1b[31m\\x0a.jpg"
