"""The published drag: the paper's numbers, on generators whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from data.errors import UsageError
from editing.drag import DragStep
from editing.published import PublishedSettings, drag_published
from inversion.generators.protocol import Generator
from pipeline.schema import compose
from tests.test_drag import CENTRES, Parts, random_w
from tests.tiny import tiny_generator

QUICK = PublishedSettings(steps=150, lr=0.02, r1_px=24.0, r2_px=48.0, w_layers=1, frame_every=0)


def test_the_group_holds_the_papers_numbers() -> None:
    edit = compose(["edit=draggan_published", "edit.preset=smile"]).edit
    paper = PublishedSettings()
    assert edit.method == "published"
    for name in ("steps", "lr", "r1_px", "r2_px", "mask_weight"):
        assert getattr(edit, name) == getattr(paper, name)
    assert (edit.w_layers, edit.pull_weight) == (6, 0.0)


def test_a_part_is_dragged_where_it_was_asked() -> None:
    parts, start = Parts(), torch.zeros(1, Parts.num_ws, Parts.w_dim)
    target, heard = torch.tensor([[24.0, 27.0]]), list[DragStep]()
    settings = replace(QUICK, stop_px=0.5)
    edited = drag_published(parts, start, None, [CENTRES[0]], target, settings=settings, on_step=heard.append)
    assert float((parts.centres(edited.w)[0] - target[0]).norm()) < 1.5
    assert float((torch.tensor(CENTRES[0]) - target[0]).norm()) == pytest.approx(5.0)
    assert [step.step for step in heard] == list(range(1, edited.steps + 1))
    assert edited.tracks.shape == (edited.steps + 1, 1, 2)


def test_the_mask_holds_and_only_the_asked_layers_move() -> None:
    generator = tiny_generator(64)
    w = random_w(generator)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1.0
    before = generator.synthesize(w)[..., 40:]

    def change(mask_crop: Tensor | None) -> float:
        settings = PublishedSettings(steps=6, lr=0.02, w_layers=2, frame_every=0)
        edited = drag_published(generator, w, None, [[16.0, 30.0]], [[24.0, 27.0]], mask_crop, settings)
        assert torch.equal(edited.w[:, 2:], w[:, 2:])
        assert edited.metrics["feature_resolution"] == 64  # a generator with five blocks has no sixth
        return float((edited.image[..., 40:] - before).abs().mean())

    assert change(mask) < 0.9 * change(None)


def test_nothing_asked_is_nothing_changed_and_the_film_is_kept() -> None:
    generator = tiny_generator(32)
    w = random_w(generator)
    still = drag_published(generator, w, None, [[9.0, 9.0]], [[9.0, 9.0]])
    assert (still.stop_reason, still.steps, len(still.frames)) == ("arrived", 0, 1)
    assert torch.equal(still.w, w)
    capped = drag_published(generator, w, None, [[9.0, 9.0]], [[20.0, 9.0]], settings=PublishedSettings(steps=4))
    assert (capped.stop_reason, capped.steps, len(capped.frames)) == ("cap", 4, 3)
    stopped = drag_published(generator, w, None, [[9.0, 9.0]], [[20.0, 9.0]], should_stop=lambda: True)
    assert (stopped.stop_reason, stopped.steps) == ("stopped", 0)


def test_misuse_is_told_in_a_sentence() -> None:
    generator: Generator = tiny_generator(32)
    with pytest.raises(UsageError, match=r"edit\.feature_resolution is 48"):
        drag_published(
            generator,
            random_w(generator),
            None,
            [[9.0, 9.0]],
            [[9.0, 9.0]],
            None,
            PublishedSettings(feature_resolution=48),
        )
    with pytest.raises(UsageError, match="takes w of"):
        drag_published(generator, torch.zeros(2, 8, 32), None, [[9.0, 9.0]], [[9.0, 9.0]])
