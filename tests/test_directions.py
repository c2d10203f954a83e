"""Directions of the generator itself: what they are, the way along one, and a whole run of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from data.errors import ModelError, UsageError
from data.photo import read_photo
from editing.axes import latent_axes
from editing.directions import (
    FILM_STEPS,
    NAMED_LAYERS,
    Direction,
    move_along,
    moved,
    parse_direction,
    parse_layers,
    pca_directions,
    pick_direction,
    sefa_directions,
    signed,
)
from inversion.generators.letterbox import squared
from inversion.generators.protocol import Generator, Styled
from inversion.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from inversion.generators.stylegan3 import StyleGAN3
from inversion.pivotal import apply_delta
from pipeline import schema
from pipeline.artifacts import STAGE_FILE
from pipeline.pictures import png_bytes
from pipeline.run import run
from pipeline.schema import EditConfig, compose
from pipeline.video import read_video
from tests.runs import PHOTO, manifest_of, run_dir, short_config, stage_entries
from tests.test_stylegan3 import tiny_stylegan3
from tests.third_family import Wave, WaveConfig
from tests.tiny import tiny_generator


@pytest.fixture(scope="module")
def tiny() -> StyleGAN2:
    return tiny_generator()


def start_of(generator: Generator, seed: int = 3) -> Tensor:
    z = torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    return generator.map(z)


def spread_along(generator: Generator, unit: Tensor) -> Tensor:
    """Standard deviations of many mapped samples along unit rows [K, D], by the samples themselves."""
    z = torch.randn(20000, generator.z_dim, generator=torch.Generator().manual_seed(9))
    return (generator.map(z)[:, 0] @ unit.t()).std(dim=0)


@pytest.mark.parametrize("layers", [range(8), range(3), range(7, 8)])
def test_sefa_directions_are_the_eigenvectors_of_the_style_weights_in_order(tiny: StyleGAN2, layers: range) -> None:
    found = sefa_directions(tiny, layers)
    a = torch.cat([tiny.style_weights(layer) for layer in layers])
    assert len(found) == min(len(a), tiny.w_dim)
    unit = found / found.norm(dim=1, keepdim=True)
    image = unit @ (a.t() @ a)
    values = (image * unit).sum(dim=1)
    assert torch.allclose(image, values[:, None] * unit, atol=1e-4)
    assert (values[:-1] >= values[1:] - 1e-5).all() and values[-1] > 1e-4
    assert torch.allclose(unit @ unit.t(), torch.eye(len(unit)), atol=1e-5)


def test_a_direction_is_as_long_as_the_standard_deviation_along_it(tiny: StyleGAN2) -> None:
    for found in (sefa_directions(tiny, range(8)), pca_directions(tiny, tiny.w_avg)):
        lengths = found.norm(dim=1)
        assert torch.allclose(lengths, spread_along(tiny, found / lengths[:, None]), rtol=0.08)


def test_pca_directions_are_the_axes_of_the_latents_widest_first_each_with_its_largest_component_positive(
    tiny: StyleGAN2,
) -> None:
    found, basis = pca_directions(tiny, tiny.w_avg), latent_axes(tiny, tiny.w_avg).basis
    assert torch.allclose(found.t() @ found, basis.t() @ basis, atol=1e-5)
    assert (found.norm(dim=1).diff() <= 0).all()
    for rows in (found, sefa_directions(tiny, range(8))):
        largest = rows.abs().argmax(dim=1)
        assert (rows[torch.arange(len(rows)), largest] > 0).all()
        assert torch.equal(signed(-rows), rows)


def style_changes(generator: StyleGAN2 | StyleGAN3, first: Tensor, second: Tensor, layer: int) -> Tensor:
    """What all affine maps behind one W+ layer make of second - first [1, D], seen while pictures are drawn, [C]."""
    seen: dict[str, list[Tensor]] = {}
    maps = {name: m for name, m in generator.synthesis.named_modules() if name.endswith("affine")}
    hooks = [
        module.register_forward_hook(lambda _, given, styles, name=name: seen.setdefault(name, []).append(styles))
        for name, module in maps.items()
    ]
    for w in (first, second):
        ws = torch.zeros(1, generator.num_ws, generator.w_dim)
        ws[:, layer] = w
        generator.synthesize(ws)
    for hook in hooks:
        hook.remove()
    found = []
    for name, (before, after) in seen.items():
        owner = generator.synthesis.get_submodule(name.removesuffix(".affine"))
        gain = owner.weight[0].numel() ** -0.5 if len(owner.weight) == 3 else 1.0  # of colours, behind the map
        if not torch.equal(before, after):
            found.append((after - before)[0] * gain)
    return torch.cat(found)


@pytest.mark.parametrize(
    "make",
    [tiny_generator, partial(tiny_generator, architecture="resnet"), tiny_stylegan3],
    ids=["stylegan2", "resnet", "stylegan3"],
)
def test_style_weights_are_those_that_pictures_are_drawn_by(make: Callable[[], StyleGAN2 | StyleGAN3]) -> None:
    generator = make()
    generator.synthesis.requires_grad_(False)
    for parameter in (p for name, p in generator.synthesis.named_parameters() if name.endswith("affine.weight")):
        parameter.normal_()
    first, second = torch.randn(2, 1, generator.w_dim, generator=torch.Generator().manual_seed(2)).unbind()
    for layer in range(generator.num_ws):
        change = style_changes(generator, first, second, layer)
        assert torch.allclose(generator.style_weights(layer) @ (second - first)[0], change, atol=1e-4)


def test_a_tuned_generator_has_sefa_directions_of_its_own(tiny: StyleGAN2) -> None:
    name = "synthesis.b8.conv1.affine.weight"
    change = torch.randn(tiny.state_dict()[name].shape, generator=torch.Generator().manual_seed(1))
    tuned = apply_delta(tiny, {name: change})
    assert not torch.allclose(sefa_directions(tuned, range(8)), sefa_directions(tiny, range(8)), atol=1e-2)
    assert torch.equal(sefa_directions(tuned, [0, 5]), sefa_directions(tiny, [0, 5]))
    assert torch.equal(pca_directions(tuned, tiny.w_avg), pca_directions(tiny, tiny.w_avg))


@pytest.mark.parametrize("kind", ["pca", "sefa"])
def test_amount_0_changes_no_bit_and_opposite_amounts_are_opposite(tiny: StyleGAN2, kind: str) -> None:
    w, direction = start_of(tiny), parse_direction(f"{kind}:1")
    still = move_along(tiny, w, None, direction, 0.0)
    assert torch.equal(still.w, w) and torch.equal(still.image, tiny.synthesize(w))
    assert (still.steps, len(still.frames), still.tracks.shape) == (0, 1, (1, 0, 2))
    there, back = (move_along(tiny, w, None, direction, amount) for amount in (1.5, -1.5))
    assert torch.allclose(there.w + back.w, 2 * w, atol=1e-5)
    row = pick_direction(tiny, direction, range(8), w)
    assert torch.allclose(there.w - w, 1.5 * row.expand_as(w), atol=1e-5)


def test_only_the_chosen_layers_move(tiny: StyleGAN2) -> None:
    w = start_of(tiny)
    edited = move_along(tiny, w, None, parse_direction("pca:0"), 2.0, "2-4")
    changed = (edited.w != w).any(dim=2)[0]
    assert changed.tolist() == [False, False, True, True, True, False, False, False]
    assert edited.metrics["w_layers"] == 3


def test_the_film_goes_from_the_start_to_the_end_in_equal_steps(tiny: StyleGAN2) -> None:
    w, direction = start_of(tiny), parse_direction("pca:0")
    edited = move_along(tiny, w, None, direction, 2.0, frame_every=4)
    assert (edited.steps, edited.stop_reason) == (FILM_STEPS, "arrived")
    assert edited.tracks.shape == (FILM_STEPS + 1, 0, 2)
    assert len(edited.frames) == FILM_STEPS // 4 + 2
    half = move_along(tiny, w, None, direction, 1.0, frame_every=1000)
    assert [len(half.frames), half.steps] == [2, 1]
    assert np.abs(edited.frames[5].astype(int) - half.frames[-1]).max() <= 1
    assert np.array_equal(edited.frames[0], half.frames[0])
    assert torch.allclose(moved(w, pca_directions(tiny, w)[0], [2.0], range(8)), edited.w)


def test_layers_by_name_follow_the_size_of_the_feature_maps_and_thirds_where_those_tell_nothing() -> None:
    config = StyleGAN2Config(64, z_dim=8, w_dim=8, channel_base=512, channel_max=8, mapping_layers=1)
    generator = StyleGAN2(config)
    wanted = [range(10), range(3), range(3, 7), range(7, 10)]
    assert [parse_layers(generator, name) for name in NAMED_LAYERS] == wanted
    other = tiny_stylegan3()
    parts = [parse_layers(other, name) for name in NAMED_LAYERS[1:]]
    assert [*parts[0], *parts[1], *parts[2]] == list(range(other.num_ws)) and all(parts)
    assert (parse_layers(other, "3"), parse_layers(other, "0-5")) == (range(3, 4), range(6))


@pytest.mark.parametrize("text", ["fine", "0-8", "8", "4-2", "high", "-1", ""])
def test_layers_that_are_not_there_are_named_with_those_that_are(tiny: StyleGAN2, text: str) -> None:
    allowed = "allowed on this generator are all, coarse, middle, or a range within 0-7"
    with pytest.raises(UsageError, match=f"^{re.escape(f'edit.direction_layers is {text}: {allowed}')}$"):
        parse_layers(tiny, text)


def test_what_a_generator_does_not_have_is_one_sentence(tiny: StyleGAN2) -> None:
    with pytest.raises(UsageError, match=r"^edit\.direction is pca:32: allowed on these layers are pca:0 to pca:31$"):
        pick_direction(tiny, Direction("pca", 32), range(8), tiny.w_avg)
    with pytest.raises(UsageError, match=r"^edit\.direction is sefa:16: .* sefa:0 to sefa:15$"):
        pick_direction(tiny, Direction("sefa", 16), [0], tiny.w_avg)
    wave = Wave(WaveConfig()).requires_grad_(False)
    assert not isinstance(wave, Styled)
    with pytest.raises(UsageError, match="tells no style weights: use pca:N"):
        sefa_directions(wave, [0])
    assert move_along(wave, start_of(wave), None, Direction("pca", 0), 1.0).image.shape == (1, 3, 32, 32)


def test_pictures_that_are_not_square_have_the_directions_of_their_generator() -> None:
    config = StyleGAN2Config(32, z_dim=8, w_dim=8, channel_base=512, channel_max=8, mapping_layers=1, start_width=2)
    narrow = StyleGAN2(config).requires_grad_(False)
    assert torch.equal(sefa_directions(squared(narrow), range(8)), sefa_directions(narrow, range(8)))

    silent = Wave(WaveConfig())
    silent.image_size = (32, 16)
    with pytest.raises(ModelError, match="tells no style weights: use the directions pca:0"):
        sefa_directions(squared(silent), [0])


@pytest.mark.parametrize("text", ["pca", "sefa:-1", "pca:1.5", "ica:0", "", "pca:0:1", "pca:\u0663"])
def test_a_direction_that_cannot_be_meant_is_refused_alike_by_config_and_editor(text: str) -> None:
    sentence = f"edit.direction is {text}: allowed are sefa:N and pca:N, N a number from 0, as in pca:0"
    for refuse in (parse_direction, lambda word: EditConfig(direction=word)):
        with pytest.raises(UsageError, match=f"^{re.escape(sentence)}"):
            refuse(text)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["edit=smile", "edit.direction=pca:0"], "edit.direction is pca:0 and edit.preset is smile: give only one"),
        (
            ["edit=direction", "edit.points=[[1,2,3,4]]"],
            "edit.direction is pca:0 and edit.points is [[1.0, 2.0, 3.0, 4.0]]: give only one",
        ),
        (["edit=direction", "edit.method=points"], "edit.method is points and edit.direction is pca:0, which drags"),
        (["edit.direction_layers=5-0"], "edit.direction_layers is 5-0: allowed are all, coarse, middle, fine, or a"),
        (["edit=direction", "edit.strength=4"], "edit.strength is 4.0: allowed is a number from -3 to 3"),
    ],
)
def test_settings_that_contradict_a_direction_are_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}"):
        compose(overrides)


def test_the_config_knows_the_layers_of_the_editor_and_the_choice_is_a_direction() -> None:
    assert schema.DIRECTION_LAYERS == NAMED_LAYERS
    assert compose(["edit=direction"]).edit == EditConfig(direction="pca:0")
    schema.check_runnable(compose(["photo=a.png", "edit=direction"]))
    assert compose(["edit=direction", "edit.direction=sefa:3", "edit.direction_layers=0-5"]).edit == EditConfig(
        direction="sefa:3", direction_layers="0-5"
    )


def test_a_run_along_a_direction_leaves_what_a_drag_leaves(generator: Path, out: Path) -> None:
    config = short_config(generator, out, edit=EditConfig(direction="pca:0", strength=2.0, fps=12))
    outcome = run(config)
    folder = outcome.run_dir
    reused = [("align", True), ("invert", True), ("tune", True)]
    assert stage_entries(folder) == [*reused, ("edit", False), ("blend", False)]
    manifest = manifest_of(folder)
    assert manifest["stop_reasons"]["edit"] == ["arrived"]
    assert "drag_distance_after_px" not in manifest["metrics"]
    assert manifest["stages"][-1]["changed_fraction"] > 0.01
    assert len(read_video(folder / "edit.mp4")) == FILM_STEPS // 2 + 2
    assert "The way along the direction" in (folder / "report.html").read_text(encoding="utf-8")
    assert outcome.results == [folder / "result.png"]
    run(config)
    assert all(reused for _, reused in stage_entries(folder))


def edit_key(outcome_dir: Path) -> str:
    return manifest_of(outcome_dir)["faces"][0]["keys"]["edit"]


def test_the_key_of_the_edit_is_that_of_the_direction_and_no_setting_of_drags_changes_it(
    generator: Path, out: Path
) -> None:
    first = EditConfig(direction="pca:0", frame_every=1000)
    changes = {
        "same": [{"steps": 9}, {"lr": 0.02}, {"gif": True}, {"stop_px": 3.0}],
        "other": [{"direction": "sefa:0"}, {"direction_layers": "0-3"}, {"strength": -1.0}],
    }

    def key(edit: EditConfig) -> str:
        return edit_key(
            run(short_config(generator, out, stages=["align", "invert", "tune", "edit"], edit=edit)).run_dir
        )

    known = key(first)
    assert [key(replace(first, **change)) == known for change in changes["same"]] == [True] * 4
    assert len({known, *(key(replace(first, **change)) for change in changes["other"])}) == 4


def test_a_direction_that_the_generator_lacks_stops_a_run_before_anything_long(generator: Path, tmp_path: Path) -> None:
    config = short_config(generator, tmp_path, edit=EditConfig(direction="pca:16"))
    with pytest.raises(UsageError, match=r"^edit\.direction is pca:16: allowed on these layers are pca:0 to pca:15"):
        run(config)
    (folder,) = tmp_path.iterdir()
    assert stage_entries(folder) == [("align", False)]


def test_what_a_mask_keeps_black_stays_bit_by_bit(generator: Path, out: Path, tmp_path: Path) -> None:
    photo = read_photo(PHOTO)
    mask = np.zeros(photo.shape_hw, np.uint8)
    mask[100:180, 180:260] = 255
    (tmp_path / "mask.png").write_bytes(png_bytes(mask))
    edit = EditConfig(direction="pca:0", strength=2.0, mask=str(tmp_path / "mask.png"), frame_every=1000)
    outcome = run(short_config(generator, out, edit=edit))
    changed = (read_photo(outcome.results[0]).pixels != photo.pixels).any(axis=2)
    assert changed.any() and not changed[mask == 0].any()


def test_drags_keep_the_keys_that_they_had_before_there_were_directions(out: Path) -> None:
    (description,) = run_dir(out).glob(f"edit/*/{STAGE_FILE}")
    inputs = json.loads(description.read_text(encoding="utf-8"))["inputs"]
    assert not {name for name in inputs["config"] if "direction" in name or name == "gif"}
    assert inputs["strength"] is None
