"""Masks round what a drag moves."""

from __future__ import annotations

import numpy as np
import pytest

from editing.masks import EYES_APART, automatic_mask, soft_mask
from pipeline.outputs import Sampled
from pipeline.schema import compose
from pipeline.stages import make_drag, sampled_crop
from tests.test_drag import random_w
from tests.tiny import tiny_generator

HANDLES = np.array([[60.0, 50.0], [120.0, 100.0]])


def test_a_farther_move_frees_more_of_the_photo() -> None:
    areas = []
    for move in (2.0, 10.0, 30.0):
        targets = HANDLES + np.array([[move, 0.0], [0.0, 0.0]])
        mask = automatic_mask(HANDLES, targets, 40.0, (200, 180))
        assert mask is not None
        assert mask.shape == (200, 180)
        assert mask.dtype == np.float32
        assert mask[50, 60] == 1.0
        assert mask[50, round(60 + move)] == 1.0
        assert mask[199, 0] == 0.0
        areas.append(float(mask.sum()))
    assert areas == sorted(areas)
    assert areas[2] > 2 * areas[0]


def test_anchors_free_nothing() -> None:
    targets = HANDLES + np.array([[3.0, 0.0], [0.0, 0.0]])
    mask = automatic_mask(HANDLES, targets, 40.0, (200, 180))
    assert mask is not None
    assert mask[100, 120] < 0.01
    assert automatic_mask(HANDLES, HANDLES, 40.0, (200, 180)) is None


def test_the_core_and_the_fade_are_fractions_of_the_distance_between_the_eyes() -> None:
    targets = HANDLES[:1] + np.array([[1e-3, 0.0]])
    mask = soft_mask(HANDLES[:1], targets, 50.0, (201, 181))
    assert mask[50, 60 + 17] == pytest.approx(1.0, abs=0.01)
    assert mask[50, 60 + 35] == pytest.approx(0.0, abs=0.01)
    assert 0.3 < mask[50, 60 + 26] < 0.7


def test_points_by_hand_have_it_unless_a_picture_or_the_setting_says_otherwise() -> None:
    generator = tiny_generator(64)
    w = random_w(generator)
    crop = sampled_crop(Sampled(w, generator.synthesize(w)))
    words = ["edit.points=[[20,30,24,30]]"]
    with_it = make_drag(compose(words).edit, crop, [0])
    wanted = automatic_mask(with_it.handles, with_it.targets, EYES_APART * 64, (64, 64))
    assert with_it.mask is not None
    assert wanted is not None
    assert np.array_equal(with_it.mask, wanted)
    assert make_drag(compose([*words, "edit.auto_mask=false"]).edit, crop, [0]).mask is None
    assert make_drag(compose(["edit=draggan_published", *words]).edit, crop, [0]).mask is None
