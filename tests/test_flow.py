"""Dense motion between two pictures: found, bent to matching points, and never folded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editing.flow import (
    FADE_SLOPE,
    LEAST_STRETCH,
    Field,
    Guides,
    blurred,
    carried,
    estimate_flow,
    faded,
    guided,
    sampled,
    stretch,
    torn,
    unfolded,
)

SIDE = 128


def textured(side: int = SIDE, seed: int = 0) -> Field:
    """[R, R, 3] in [-1, 1], with detail at several sizes."""
    rng = np.random.default_rng(seed)
    layers = [
        s**0.8 * blurred(rng.normal(0, 1, (side, side, 3)).astype(np.float32), s * side / 128) for s in (1.5, 4, 10)
    ]
    picture = sum(layers)
    return np.clip(picture / (2 * np.std(picture)), -1, 1).astype(np.float32)


def swell(side: int = SIDE, right: float = 3.0, down: float = -2.0, width: float = 0.14) -> Field:
    """A smooth motion in the middle, in pixels of a crop of 128."""
    y, x = (np.mgrid[:side, :side] - (side - 1) / 2) / (width * side)
    hill = np.exp(-(x**2 + y**2) / 2)[..., None] * (side / 128)
    return (hill * np.array([right, down])).astype(np.float32)


@pytest.mark.parametrize("side", [64, 128, 256, 640])
def test_a_smooth_motion_is_found(side: int) -> None:
    picture, motion = textured(side), swell(side)
    found = estimate_flow(picture, carried(picture, motion))
    error = np.linalg.norm(found - motion, axis=2) * 128 / side
    assert error.mean() < 0.1
    assert error[side // 4 : -side // 4, side // 4 : -side // 4].mean() < 0.25
    assert np.linalg.norm(motion, axis=2).mean() * 128 / side > 3 * error.mean(), "a flow of nothing would not do"


def test_equal_pictures_do_not_move() -> None:
    assert not estimate_flow(textured(), textured()).any()


def test_what_is_redrawn_in_flat_places_does_not_move_the_rest() -> None:
    """A blot without edges that a generator adds tells no motion, and what lies beside it stays where it is."""
    picture = textured()
    y, x = (np.mgrid[:SIDE, :SIDE] - 64) / 20
    blot = (0.2 * np.exp(-(x**2 + y**2) / 2))[..., None].astype(np.float32)
    assert np.linalg.norm(estimate_flow(picture, picture + blot), axis=2).max() < 0.5


def test_matching_points_bend_the_flow() -> None:
    flat, motion = np.zeros((SIDE, SIDE, 3), np.float32), swell()
    y, x = np.mgrid[40:92:6, 40:92:6]
    after = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64)
    guides = Guides(after + sampled(motion, after), after)
    left = np.linalg.norm(estimate_flow(flat, flat + np.float32(0.01), guides) - motion, axis=2)
    assert left[40:90, 40:90].mean() < 0.25 * np.linalg.norm(motion[40:90, 40:90], axis=2).mean()
    far = guided(np.zeros_like(motion), guides)[:8]
    assert np.abs(far).max() < 0.05
    none = np.zeros((0, 2))
    assert np.array_equal(guided(motion, Guides(none, none)), motion)


@given(scale=st.floats(0, 40), width=st.floats(0.02, 0.2), seed=st.integers(0, 9))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_nothing_folds(scale: float, width: float, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, scale, (SIDE, SIDE, 2)).astype(np.float32)
    flow = unfolded(swell(width=width, right=scale, down=-scale / 2) + blurred(noise, 2.0))
    assert stretch(flow).min() >= LEAST_STRETCH
    assert not torn(flow).any()


def test_motion_fades_out_before_a_border_as_softly_as_its_length_needs() -> None:
    within = np.zeros((SIDE, SIDE), np.float32)
    within[:100, 4:124] = 1
    flow = np.zeros((SIDE, SIDE, 2), np.float32)
    flow[..., 0] = 5.0
    ended = faded(flow, within)
    assert not ended[within == 0].any()
    assert max(np.abs(np.diff(ended[..., 0], axis=axis)).max() for axis in (0, 1)) <= FADE_SLOPE + 0.01
    assert (ended[20:80, 20:-20, 0] == 5.0).all()
    assert not torn(ended).any()
    short = faded(np.float32(0.1) * flow, within)
    assert (short[4:97, 7:-7, 0] == 0.5).all()


def test_what_does_not_fold_is_left_alone() -> None:
    assert np.array_equal(unfolded(swell()), swell())
