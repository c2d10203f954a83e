"""Pictures for people: which part of two is shown."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.pictures import CLOSE_UP_PX, around_change


@pytest.mark.parametrize(
    ("size", "box", "expected"),
    [
        ((900, 1200), (300, 360, 500, 540), (CLOSE_UP_PX, CLOSE_UP_PX)),
        ((900, 1200), (300, 600, 500, 540), (600, 600)),
        ((900, 1200), (0, 10, 1190, 1200), (CLOSE_UP_PX, CLOSE_UP_PX)),
        ((900, 1200), (100, 700, 0, 800), (900, 1200)),
        ((150, 1200), (70, 80, 600, 610), (150, CLOSE_UP_PX)),
    ],
)
def test_a_close_up_holds_the_whole_change_and_lies_inside_the_picture(
    size: tuple[int, int], box: tuple[int, int, int, int], expected: tuple[int, int]
) -> None:
    before = np.random.default_rng(0).integers(0, 200, (*size, 3), np.uint8)
    after = before.copy()
    top, bottom, left, right = box
    after[top:bottom, left:right] += 1
    one, other = around_change(before, after)
    assert one.shape == other.shape == (*expected, 3)
    assert (one != other).any(axis=2).sum() == (bottom - top) * (right - left)


def test_two_equal_pictures_are_shown_whole() -> None:
    picture = np.zeros((30, 400, 3), np.uint8)
    one, other = around_change(picture, picture.copy())
    assert one is picture and other.shape == picture.shape
