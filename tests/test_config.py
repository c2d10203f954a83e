"""Every setting: YAML equals dataclass, every choice composes, every wrong value ends in one sentence."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import conf
import editing.presets
import pipeline.train_config
from data.errors import UsageError
from pipeline import schema
from pipeline.composing import Source, compose_tree, load_tree
from pipeline.schema import CHAIN, PRESETS, RunConfig, check_runnable, compose, load
from pipeline.train_config import GameConfig, ModelConfig, TrainConfig, check_trainable, compose_training
from pipeline.validation import known_keys

CONF = Path(conf.__file__).parent
GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and not folder.name.startswith("_"))
CHOICES = [(group, file.stem) for group in GROUPS for file in sorted((CONF / group).glob("*.yaml"))]
NEEDED = {
    ("generator", "file"): ["generator.path=model.safetensors"],
    ("align", "quad"): ["align.quad=[[0,0],[0,9],[9,9],[9,0]]"],
}
"""What a choice asks for besides itself."""


def numeric_fields(cls: type = RunConfig, prefix: str = "") -> Iterator[tuple[str, type, dict[str, Any]]]:
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):
        hint = hints[item.name]
        if dataclasses.is_dataclass(hint):
            yield from numeric_fields(typing.cast(type, hint), f"{prefix}{item.name}.")
        elif hint in (int, float):
            yield f"{prefix}{item.name}", hint, dict(item.metadata)


def leaves(cls: type = RunConfig) -> set[str]:
    keys = known_keys(cls)
    return {key for key in keys if not any(other.startswith(f"{key}.") for other in keys)}


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for key, value in tree.items():
        pairs.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return pairs


def is_complete(path: Path) -> bool:
    """Whether a YAML file shows every setting of its group, rather than what it changes in another file."""
    return path.parent.name != "experiment" and "- _self_\n\n" not in path.read_text(encoding="utf-8")


def refusal(*overrides: str, by: Callable[[list[str]], object] = compose) -> str:
    with pytest.raises(UsageError) as caught:
        by(list(overrides))
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_yaml_defaults_are_the_dataclass_defaults() -> None:
    assert compose([]) == RunConfig()
    assert compose_training([]) == TrainConfig()


@pytest.mark.parametrize("source", [schema.SOURCE, pipeline.train_config.SOURCE], ids=lambda source: source.name)
def test_yaml_shows_every_setting_and_no_other(source: Source[Any]) -> None:
    tree = OmegaConf.to_container(compose_tree(source, []))
    assert isinstance(tree, dict)
    assert set(flat(typing.cast(dict[str, Any], tree))) == leaves(source.cls)


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes_and_changes_something_only_where_it_should(group: str, choice: str) -> None:
    plus = "+" if group == "experiment" else ""
    config = compose([f"{plus}{group}={choice}", *NEEDED.get((group, choice), [])])
    others = [item.name for item in dataclasses.fields(RunConfig) if item.name != group]
    if group != "experiment":
        assert all(getattr(config, name) == getattr(RunConfig(), name) for name in others)
    else:
        assert config != RunConfig()


@pytest.mark.parametrize(
    ("group", "field"),
    [("generator", "name"), ("align", "method"), ("invert", "space"), ("blend", "method"), ("perceptual", "name")],
)
def test_a_choice_is_named_after_what_it_sets(group: str, field: str) -> None:
    for name in [choice for owner, choice in CHOICES if owner == group]:
        config = compose([f"{group}={name}", *NEEDED.get((group, name), [])])
        assert getattr(getattr(config, group), field) == name


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: path.relative_to(CONF).as_posix())
def test_every_yaml_setting_has_a_comment(path: Path) -> None:
    if not is_complete(path):
        assert path.read_text(encoding="utf-8").startswith("#")
        return
    commented = False
    for line in path.read_text(encoding="utf-8").splitlines():
        if re.match(r"\s*#", line):
            commented = True
        elif not line.strip():
            commented = False
        elif re.match(r"\s*\w+:", line):
            assert commented or line == "defaults:", line


def test_presets_are_those_that_the_editor_computes_each_with_its_choice() -> None:
    assert tuple(editing.presets.PRESETS) == PRESETS
    for name in PRESETS:
        assert compose([f"edit={name}"]).edit == schema.EditConfig(preset=name)


def load_training(cfg: Mapping[str, Any]) -> TrainConfig:
    return load_tree(pipeline.train_config.SOURCE, cfg)


@pytest.mark.parametrize(
    ("load", "key", "kind", "allowed"),
    [(load, *item) for item in numeric_fields()] + [(load_training, *item) for item in numeric_fields(TrainConfig)],
    ids=lambda value: getattr(value, "__name__", str(value)[:40]),
)
def test_every_number_is_bounded_and_its_bounds_are_allowed(
    load: Callable[[Any], object], key: str, kind: type, allowed: dict[str, Any]
) -> None:
    low, high, above = allowed.get("low"), allowed.get("high"), allowed.get("above")
    assert (low is None) != (above is None), f"{key} has no lower bound"
    outside = [low - 1] if low is not None else [above]
    outside += [high + 1] if high is not None else []
    for value in outside:
        with pytest.raises(UsageError, match=rf"^{re.escape(key)} is {kind(value)}: allowed is "):
            load(OmegaConf.from_dotlist([f"{key}={value}"]))
    for value in (low, high):
        if value is not None:
            load(OmegaConf.from_dotlist([f"{key}={value}"]))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("invert.stps=3", "invert.stps is not a setting: did you mean invert.steps?"),
        ("+invert.stps=3", "invert.stps is not a setting: did you mean invert.steps?"),
        ("tune.weights.pixl=3", "tune.weights.pixl is not a setting: did you mean tune.weights.pixel?"),
        ("strength=2", "strength is not a setting: did you mean edit.strength?"),
        ("prceptual=face", "prceptual is not a setting: did you mean perceptual?"),
        ("qqq=1", "qqq is not a setting: allowed is what photodrag --cfg job lists"),
        ("invert.steps=0", "invert.steps is 0: allowed is a whole number from 1 to 10000"),
        ("invert.steps=2.5", "invert.steps is 2.5: allowed is a whole number from 1 to 10000"),
        ("invert.steps=many", "invert.steps is many: allowed is a whole number from 1 to 10000"),
        ("invert.steps=true", "invert.steps is True: allowed is a whole number from 1 to 10000"),
        ("invert.lr=0", "invert.lr is 0.0: allowed is a number above 0 and at most 1"),
        ("invert.lr=nan", "invert.lr is nan: allowed is a number above 0 and at most 1"),
        ("invert.weights.pixel=-1", "invert.weights.pixel is -1.0: allowed is a number of at least 0"),
        ("tune.locality_alpha=inf", "tune.locality_alpha is inf: allowed is a number above 0"),
        ("invert.focus=0.5", "invert.focus is 0.5: allowed is a number from 1 to 100"),
        ("invert.mask=", "invert.mask is empty: allowed are none, face, hull, auto, or a PNG in photo pixels"),
        ("tune.weights.identity=-1", "tune.weights.identity is -1.0: allowed is a number of at least 0"),
        ("edit.strength=9", "edit.strength is 9.0: allowed is a number from -3 to 3"),
        ("seed=null", "seed is null: allowed is a whole number from 0 to 4294967295"),
        ("progress=perhaps", "progress is perhaps: allowed is true or false"),
        ("device=gpu", "device is gpu: allowed are auto, cpu, cuda"),
        ("edit=smil", "edit is smil: allowed are bigger_eyes, close_eyes, close_mouth, direction, drag,"),
        ("tune=null", "tune is null: allowed are none, pivotal"),
        ("edit.preset=smirk", "edit.preset is smirk: allowed are smile, open_mouth, close_mouth, raise_brows,"),
        ("align.face=second", "align.face is second: allowed are largest, all or an index (0 is the largest face)"),
        ("align.face=-1", "align.face is -1: allowed are largest, all or an index (0 is the largest face)"),
        ("edit.points=[[1,2,3]]", "edit.points is [[1.0, 2.0, 3.0]]: allowed is a list of drags, each x,y,x2,y2"),
        ("edit.points=[[1,2,3,nan]]", "edit.points is [[1.0, 2.0, 3.0, nan]]: allowed is a list of drags"),
        ("edit.points=[1,2,3,4]", "edit.points is [1, 2, 3, 4]: allowed is a list of lists of numbers"),
        (
            "edit.feature_resolution=48",
            "edit.feature_resolution is 48: allowed are 0 (automatic) and",
        ),
        ("align.quad=[[1,2],[3,4]]", "align.quad is [[1.0, 2.0], [3.0, 4.0]]: allowed are four corners"),
        ("align=quad", "align.method is quad but align.quad is null: give four corners"),
        ("generator=file", "generator.name is file but generator.path is null: give generator.path=MODEL.safetensors"),
        ("tune.weights={perceptual: 0, pixel: 0, color: 0}", "tune.weights.perceptual, tune.weights.pixel and"),
        ("out=", "out is empty: allowed is a path"),
        ("edit.mask=", "edit.mask is empty: allowed is a path or null"),
        (
            "stages=[algin]",
            "stages holds algin: allowed are align, invert, tune, edit, blend, sample; did",
        ),
        (
            "stages=[align,tune]",
            "stages is [align,tune]: allowed are an unbroken part of [align,",
        ),
        ("stages=[edit,sample]", "stages is [edit,sample]: allowed are an unbroken part"),
        ("stages=[]", "stages is []: allowed are an unbroken part"),
        ("stages=align", "stages is align: allowed is a list of names"),
        ("invert={steps: 3}", "invert is {'steps': 3}: allowed are w, w_plus"),
        (
            "edit.strength=1,2",
            "edit.strength=1,2 gives several values: allowed is one, or -m",
        ),
        ("edit.points=[[1,2", "edit.points=[[1,2 cannot be read: allowed is key=value"),
        ("photo='${seed'", "photo='${seed' cannot be applied"),
        ("photo=${nothing}", "photo cannot be read: Interpolation key 'nothing' not found"),
        ("edit@other=smile", "edit@other is not a setting: allowed is what photodrag --cfg job lists"),
        ("hydra.nothing=1", "hydra.nothing=1 cannot be applied"),
    ],
)
def test_a_wrong_setting_ends_in_one_sentence(override: str, sentence: str) -> None:
    assert refusal(override).startswith(sentence)


def test_a_misspelled_choice_gets_the_nearest_one() -> None:
    assert refusal("edit=smil").endswith("turn_left, turn_right, wider_face; did you mean smile?")


def test_points_and_preset_together_are_refused() -> None:
    text = refusal("edit=smile", "edit.points=[[1,2,3,4]]")
    assert text == (
        "edit.preset is smile and edit.points is [[1.0, 2.0, 3.0, 4.0]]: give only one of them "
        "(edit.preset=null drops the preset)"
    )


def test_another_photos_pose_is_the_only_drag() -> None:
    dropped = "give only one of them (edit.like=null drops the other photo)"
    assert refusal("edit=smile", "edit.like='b.jpg'") == f"edit.like is b.jpg and edit.preset is smile: {dropped}"
    points = refusal("edit.like='b.jpg'", "edit.points=[[1,2,3,4]]")
    assert points == f"edit.like is b.jpg and edit.points is [[1.0, 2.0, 3.0, 4.0]]: {dropped}"
    assert refusal("edit.like=").startswith("edit.like is empty: allowed is a path or null")
    assert compose(["edit.like='b.jpg'", "edit.method=landmarks"]).edit.by_face


def test_whole_numbers_become_floats_and_numbers_become_text_where_that_is_the_type() -> None:
    config = compose(["edit.points=[[1,2,3,4]]", "align.face=1", "invert.lr=1", "tune.weights={pixel: 2}"])
    assert config.edit.points == [[1.0, 2.0, 3.0, 4.0]]
    assert all(type(number) is float for number in config.edit.points[0])
    assert config.align.face == "1"
    assert type(config.invert.lr) is float
    assert config.tune.weights == schema.TuneWeights(pixel=2.0)


def test_load_takes_a_plain_mapping_and_keeps_the_defaults_of_the_rest() -> None:
    config = load({"seed": 4, "invert": {"steps": 7}})
    assert config == dataclasses.replace(RunConfig(), seed=4, invert=schema.InvertConfig(steps=7))


def test_dataclasses_check_themselves_without_a_config_file() -> None:
    with pytest.raises(UsageError, match=r"^tune\.steps is -1: allowed is a whole number from 0 to 10000$"):
        schema.TuneConfig(steps=-1)


def test_lists_of_two_configs_are_not_shared() -> None:
    assert RunConfig().stages is not RunConfig().stages


@pytest.mark.parametrize(
    "stages",
    [[*CHAIN[i:j]] for i in range(5) for j in range(i + 1, 6)] + [["sample"], ["sample", "edit"]],
)
def test_every_unbroken_part_of_the_chain_is_allowed(stages: list[str]) -> None:
    assert compose([f"stages=[{','.join(stages)}]"]).stages == stages


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["edit=smile"], "photo is null: write photodrag PHOTO"),
        (["photo=a.png"], "edit.points is empty and edit.preset is null: give 'edit.points="),
        (
            ["stages=[edit,blend]", "edit=smile", "photo=a.png"],
            "stages begins with edit but from is null: give",
        ),
    ],
)
def test_a_stage_without_its_input_is_refused_before_the_run(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_runnable(compose(overrides))
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    "overrides",
    [
        ["photo=a.png", "edit=smile"],
        ["photo=a.png", "+experiment=inversion_only"],
        ["from_run=runs/a", "stages=[edit,blend]", "edit=smile"],
        ["from_run=runs/a", "edit.points=[[1,2,1,2]]"],
        ["stages=[sample,edit]", "edit=smile"],
        ["photo=a.png", "edit.like='b.jpg'"],
        ["stages=[sample]"],
    ],
)
def test_complete_settings_are_runnable(overrides: list[str]) -> None:
    check_runnable(compose(overrides))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("game.r1_wieght=1", "game.r1_wieght is not a setting: did you mean game.r1_weight?"),
        ("r1_weight=1", "r1_weight is not a setting: did you mean game.r1_weight?"),
        ("qqq=1", "qqq is not a setting: allowed is what conf/train.yaml lists"),
        ("edit=smile", "edit is not a setting: allowed is what conf/train.yaml lists"),
        ("+experiment=quick", "experiment is not a setting: allowed is what conf/train.yaml lists"),
        ("game.mixing_share=1.5", "game.mixing_share is 1.5: allowed is a number from 0 to 1"),
        ("batch=1", "batch is 1: allowed is a whole number from 2 to 1024"),
        ("images=many", "images is many: allowed is a whole number of at least 1"),
        ("precision=fp16", "precision is fp16: allowed are auto, fp32, bf16"),
        ("resolution=96", "resolution is 96: allowed are the powers of two from 16 to 1024"),
        ("model.channel_base=127", "model.channel_base is 127: allowed is a whole number from 128 to 1048576"),
        ("game.decay_from=1000000", "game.decay_from is 1000000: allowed is a count below images (1000000), or 0"),
        ("faces=", "faces is empty: allowed is a path or null"),
        ("seed=1,2", "seed=1,2 gives several values: allowed is one"),
        ("batch", "batch cannot be read: allowed is key=value"),
    ],
)
def test_a_wrong_setting_of_the_trainer_ends_in_one_sentence(override: str, sentence: str) -> None:
    assert refusal(override, by=compose_training).startswith(sentence)


def test_a_trainer_setting_is_taken_and_paths_arrive_as_they_stand() -> None:
    words = ["faces=my faces (1), ${x}", "out=2024_01", "grow_from=null", "game.lr_warmup=1"]
    assert compose_training(words) == TrainConfig(
        faces="my faces (1), ${x}", out="2024_01", game=GameConfig(lr_warmup=1.0)
    )
    assert compose_training(["model.z_dim=8"]).model == ModelConfig(z_dim=8)
    with pytest.raises(UsageError, match=r"^model\.channel_base is 512: allowed is at least resolution \(1024\)"):
        compose_training(["resolution=1024", "model.channel_base=512"])


def test_the_trainer_names_what_it_is_not_given(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^faces is null: give faces=FOLDER, a folder of aligned face pictures$"):
        check_trainable(compose_training([]))
    with pytest.raises(UsageError, match=r"^out is null: give out=FOLDER"):
        check_trainable(compose_training([f"faces={tmp_path}"]))
    new = tmp_path / "new"
    assert check_trainable(compose_training([f"faces={tmp_path}", f"out={new}"])) == (tmp_path, new)
