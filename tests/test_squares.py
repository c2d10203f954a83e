"""Squares of a feature map are parts of the whole map, with its derivatives."""

from __future__ import annotations

import math

import pytest
import torch

from inversion.generators import squares
from inversion.generators.protocol import Squared
from inversion.generators.squares import cut_squares
from inversion.generators.stylegan2 import StyleGAN2
from tests.inversions import seeded
from tests.tiny import tiny_generator

STARTS = torch.tensor([[5, 9], [12, 20], [-3, -2], [40, 57], [64, 0]])


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return tiny_generator(64, channels=12)


@pytest.mark.parametrize("base", [4, 8, 32])
@pytest.mark.parametrize("side", [1, 6, 9])
def test_squares_are_parts_of_the_map(
    generator: StyleGAN2, base: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(squares, "BASE_PX", base)
    assert isinstance(generator, Squared)
    ws = generator.map(torch.randn(1, generator.z_dim, generator=seeded(3))).requires_grad_(True)
    noise = {name: torch.randn(value.shape, generator=seeded(4)) for name, value in generator.noise_maps().items()}
    for given in (noise, None):
        wanted = cut_squares(generator.features(ws, 64, "const", given), STARTS, side)
        levels, last = generator.feature_squares(ws, 64, STARTS, side, "const", given)
        found = levels[0].values
        for patches in levels[1:]:
            whole = generator.features(ws, patches.size[0], "const", given)
            assert torch.allclose(
                patches.values, cut_squares(whole, patches.starts, patches.values.shape[-1]), atol=1e-5
            )
        assert torch.equal(last, generator.features(ws, base, "const", given))
        assert float(wanted.detach().abs().max()) > 0.1
        assert torch.allclose(found, wanted, atol=1e-5)
        slope = torch.randn(found.shape, generator=seeded(5))
        first, second = (torch.autograd.grad(x, ws, slope)[0] for x in (found, wanted))
        assert torch.allclose(first, second, atol=1e-4 * float(second.abs().max()))


def test_squares_outside_the_map_are_zero() -> None:
    features = torch.ones(1, 2, 8, 8)
    found = cut_squares(features, torch.tensor([[-2, 6], [3, 3]]), 4)
    assert found[0, 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert bool((found[1] == 1).all())


def test_work_tells_when_squares_are_worth_it(generator: StyleGAN2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squares, "BASE_PX", 16)
    works = [generator.squares_work(64, count, 9) for count in (1, 4, 40)]
    assert works == sorted(works)
    assert works[0] < 0.5
    assert works[2] > 1
    assert generator.squares_work(16, 1, 9) == 1
    assert tiny_generator(32, architecture="resnet").squares_work(32, 1, 9) == math.inf
