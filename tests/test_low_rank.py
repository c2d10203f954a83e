"""Low-rank convolutions: the factors' gradients without the weight's are those that autograd finds by way of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inversion.generators.low_rank import WORTHWHILE, LowRankWeight, convolve, convolve_up
from inversion.generators.weights import changed, expand, shapes_of, start_factors, with_weights
from tests.inversions import seeded
from tests.tiny import tiny_generator

RANK = 2


def operands(rows: int, kernel: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x [2, 5, 7, 6], a base weight, and factors of a change, in double precision."""
    rng = torch.Generator().manual_seed(0)
    shapes = (2, 5, 7, 6), (rows, 5, kernel, kernel), (rows, RANK), (RANK, 5 * kernel * kernel)
    x, base, a, b = (torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in shapes)
    return x.requires_grad_(True), base, a.requires_grad_(True), b.requires_grad_(True)


def applied(x: Tensor, weight: Tensor, up: bool) -> Tensor:
    """The convolution, and what demodulation asks of the weight itself."""
    y = convolve_up(x, weight) if up else convolve(x, weight, weight.shape[2] // 2)
    return y * weight.square().sum(dim=(1, 2, 3)).rsqrt()[:, None, None]


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_gradients_are_those_of_the_whole_weight(up: bool, kernel: int) -> None:
    x, base, a, b = operands(WORTHWHILE * RANK + 1, kernel)
    low = LowRankWeight.of(base, a, b)
    assert isinstance(low, LowRankWeight)
    whole = low.as_subclass(Tensor)
    outputs = [applied(x, weight, up) for weight in (low, whole)]
    assert torch.equal(*outputs)
    slope = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for found, wanted in zip(
        *(torch.autograd.grad(y, (x, a, b), slope, retain_graph=True) for y in outputs), strict=True
    ):
        assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-12)


def test_no_gradient_of_the_whole_weight_is_formed() -> None:
    x, base, a, b = operands(WORTHWHILE * RANK + 1, 3)
    weight = LowRankWeight.of(base, a, b)
    reached: list[Tensor] = []
    weight.register_hook(reached.append)
    convolve(x, weight, 1).sum().backward()
    assert not reached
    assert a.grad is not None
    assert float(a.grad.abs().max()) > 0


def test_few_rows_are_an_ordinary_weight() -> None:
    _, base, a, b = operands(WORTHWHILE * RANK, 3)
    assert not isinstance(LowRankWeight.of(base, a, b), LowRankWeight)


@pytest.mark.parametrize("rank", [0, RANK])
def test_changed_weights_draw_what_their_expanded_change_draws(rank: int) -> None:
    generator = tiny_generator(32, channels=12)
    factors = start_factors(generator, rank, seeded())
    factors = {name: value + 0.1 * torch.randn(value.shape, generator=seeded(1)) for name, value in factors.items()}
    weights = changed(generator.state_dict(), factors)
    assert any(isinstance(weight, LowRankWeight) for weight in weights.values()) == bool(rank)
    base = generator.state_dict()
    expanded = {name: base[name] + change for name, change in expand(factors, shapes_of(generator)).items()}
    ws = generator.map(torch.randn(1, generator.z_dim, generator=seeded(2)))
    first = with_weights(generator, weights, lambda tuned: tuned.synthesize(ws))
    second = with_weights(generator, base | expanded, lambda tuned: tuned.synthesize(ws))
    assert torch.allclose(first, second, atol=1e-5)
    assert not torch.allclose(first, generator.synthesize(ws), atol=1e-3)
