"""Masks round what a drag moves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from editing.masks import EYES_APART, MASK_GRID, automatic_mask, faded, soft_mask
from pipeline.outputs import Sampled
from pipeline.schema import compose
from pipeline.stages import make_drag, sampled_crop
from tests.test_drag import random_w
from tests.tiny import tiny_generator

ROOT = Path(__file__).parents[1]
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


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (150, 192), (130, 700), (450, 333)])
def test_a_mask_is_its_coarse_grid_interpolated(shape: tuple[int, int]) -> None:
    seen: list[np.ndarray] = []

    def away(grid: np.ndarray) -> np.ndarray:
        seen.append(grid)
        return np.asarray(0.34 + 0.36 * (0.5 + 0.5 * np.sin(grid[..., 0] / 9) * np.cos(grid[..., 1] / 7)))

    mask = faded(away, shape)
    (grid,) = seen
    share = 0.5 - 0.5 * np.sin(grid[..., 0] / 9) * np.cos(grid[..., 1] / 7)
    coarse = share * share * (3 - 2 * share)
    columns, rows = grid[0, :, 0], grid[:, 0, 1]
    across = np.stack([np.interp(np.arange(shape[1]), columns, line) for line in coarse])
    wanted = np.stack([np.interp(np.arange(shape[0]), rows, line) for line in across.T], axis=1)
    assert mask.dtype == np.float32
    assert np.abs(mask - wanted).max() < 1e-6
    if max(shape) <= MASK_GRID:
        assert np.array_equal(mask, coarse.astype(np.float32))


MASK = """
import hashlib, os, sys
import numpy as np
from editing.masks import automatic_mask
ends = np.array([[300.0, 200.0], [650.0, 420.0]])
mask = automatic_mask(ends, ends + [[11.0, -7.0], [3.0, 0.0]], 160.0, (800, 900))
print(hashlib.sha256(mask.tobytes()).hexdigest())
"""


def test_a_mask_has_the_same_bits_on_any_number_of_cores() -> None:
    def told(threads: int) -> str:
        environment = os.environ | {"OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(
            [sys.executable, "-c", MASK], check=True, capture_output=True, text=True, cwd=ROOT, env=environment
        )
        return done.stdout

    assert told(1) == told(2)


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
