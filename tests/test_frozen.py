"""What is kept of frozen weights: convolutions with packed ones are plain convolutions, and no stale one is used."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inversion.generators import frozen, packed, winograd
from inversion.generators.frozen import power, swapped
from inversion.generators.low_rank import convolve, convolve_up
from inversion.generators.packed import can_pack, packed_convolutions
from inversion.generators.winograd import convolve_by_tiles, few_products
from tests.inversions import seeded

PADDINGS = (0, 1)


def parameter(rows: int, columns: int, kernel: int = 3, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    """A frozen weight [rows, columns, kernel, kernel]."""
    values = torch.randn(rows, columns, kernel, kernel, generator=seeded(1), dtype=dtype)
    return nn.Parameter(values, requires_grad=False)


def operand(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=seeded(2), dtype=dtype).requires_grad_(True)


def applied(x: Tensor, weight: Tensor, padding: int, up: bool) -> tuple[Tensor, Tensor]:
    """A convolution, up by two or not, and the derivative of a fixed mixture of its values."""
    y = convolve_up(x, weight, padding) if up else convolve(x, weight, padding)
    slope = torch.randn(y.shape, generator=seeded(3)).to(y)
    return y.detach(), torch.autograd.grad(y, x, slope)[0]


def plain(x: Tensor, weight: Tensor, padding: int, up: bool) -> tuple[Tensor, Tensor]:
    """The same in double precision, by PyTorch alone."""
    wide, kernel = x.detach().double().requires_grad_(True), weight.double()
    if up:
        y = F.conv_transpose2d(wide, kernel.transpose(0, 1), stride=2, padding=padding)
    else:
        y = F.conv2d(wide, kernel, padding=padding)
    slope = torch.randn(y.shape, generator=seeded(3)).double()
    return y.detach(), torch.autograd.grad(y, wide, slope)[0]


def close(found: Tensor, wanted: Tensor, within: float) -> bool:
    return found.shape == wanted.shape and bool((found - wanted).abs().max() <= within * wanted.abs().max())


@pytest.mark.skipif(not packed._offered(), reason="this PyTorch packs no weights")
@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (2, 12, 7, 5), (5, 16, 13, 13), (1, 33, 3, 9)])
def test_packed_convolutions_are_plain_ones(shape: tuple[int, int, int, int], padding: int, up: bool) -> None:
    x, weight = operand(*shape), parameter(17, shape[1])
    wanted = plain(x, weight, padding, up)
    with packed_convolutions():
        assert can_pack(x, weight)
        found = applied(x, weight, padding, up)
        again = applied(operand(3, shape[1], 6, 11), weight, padding, up)  # a size that nothing was packed for
    assert not can_pack(x, weight)
    for first, second in zip(found, wanted, strict=True):
        assert close(first, second, 2e-6)
    for first, second in zip(again, plain(operand(3, shape[1], 6, 11), weight, padding, up), strict=True):
        assert close(first, second, 2e-6)


@pytest.mark.skipif(not packed._offered(), reason="this PyTorch packs no weights")
@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (2, 12, 7, 5), (5, 16, 13, 13), (1, 33, 3, 9), (1, 64, 3, 3)])
@pytest.mark.parametrize("padding", PADDINGS)
def test_fewer_products_make_the_same_convolution(
    shape: tuple[int, int, int, int], padding: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "LEAST_TILES", 1)
    monkeypatch.setattr(winograd, "LEAST_WORK", 1)
    calls: list[Tensor] = []

    def watched(x: Tensor, weight: Tensor, padding: int) -> Tensor:
        calls.append(x)
        return convolve_by_tiles(x, weight, padding)

    monkeypatch.setattr(packed, "convolve_by_tiles", watched)
    weight = parameter(17, shape[1])
    for size in (shape, (3, shape[1], 6, 11)):
        x = operand(*size)
        with packed_convolutions():
            found = applied(x, weight, padding, up=False)
        assert all(close(a, b, 2e-6) for a, b in zip(found, plain(x, weight, padding, False), strict=True))
    assert len(calls) == 2


def test_products_are_saved_where_they_count() -> None:
    assert few_products(torch.zeros(1, 512, 16, 16), parameter(512, 512), 1)
    assert not few_products(torch.zeros(1, 512, 8, 8), parameter(512, 512), 1)
    assert not few_products(torch.zeros(1, 64, 16, 16), parameter(64, 64), 1)
    assert not few_products(torch.zeros(1, 512, 64, 64), parameter(512, 512, kernel=1), 0)


@pytest.mark.skipif(not packed._offered(), reason="this PyTorch packs no weights")
def test_rounding_is_that_of_float32() -> None:
    x, weight = operand(1, 512, 16, 16).detach(), parameter(256, 512)
    wanted = plain(x, weight, 1, False)[0]
    with packed_convolutions():
        assert few_products(x, weight, 1)
        error = convolve(x, weight, 1) - wanted
    assert float(error.square().mean().sqrt()) < 2e-6 * float(wanted.std())


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_packed_convolutions_take_any_layout(layout: torch.memory_format, up: bool) -> None:
    weight = parameter(6, 5)
    x = operand(2, 5, 8, 8).detach().contiguous(memory_format=layout).requires_grad_(True)
    with packed_convolutions():
        found = applied(x, weight, 1, up)
    assert all(close(a, b, 2e-6) for a, b in zip(found, plain(x, weight, 1, up), strict=True))


@pytest.mark.parametrize("up", [False, True])
def test_other_tensors_go_the_usual_way(up: bool) -> None:
    wide = operand(2, 5, 7, 6, dtype=torch.float64), parameter(4, 5, dtype=torch.float64)
    trained = operand(2, 5, 7, 6), nn.Parameter(parameter(4, 5).detach())
    unnamed = operand(2, 5, 7, 6), parameter(4, 5).detach()
    for x, weight in (wide, trained, unnamed):
        with packed_convolutions():
            assert not can_pack(x, weight)
            found = applied(x, weight, 1, up)
        assert all(torch.equal(a, b) for a, b in zip(found, applied(x, weight, 1, up), strict=True))
    with packed_convolutions():
        assert not can_pack(torch.zeros(1, 5, 7, 6, device="meta"), parameter(4, 5).to("meta"))
        assert convolve(torch.zeros(1, 5, 7, 6, device="meta"), parameter(4, 5).to("meta"), 1).device.type == "meta"
        with torch.autocast("cpu", torch.bfloat16):
            assert not can_pack(operand(2, 5, 7, 6), parameter(4, 5))


@pytest.mark.parametrize("broken", [lambda x, *_: x, lambda *_: torch.zeros(2) + torch.zeros(3), None])
def test_operators_that_do_something_else_are_not_called(broken: object, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = packed._offered.__wrapped__
    expected = packed._offered()
    assert fresh() is expected
    monkeypatch.setattr(packed, "_convolution", broken)
    assert not fresh()


def test_without_the_operators_nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_offered", lambda: False)
    with packed_convolutions():
        assert not can_pack(operand(2, 5, 7, 6), parameter(4, 5))


@pytest.mark.parametrize("up", [False, True])
def test_a_changed_weight_is_packed_anew(up: bool) -> None:
    weight, x = parameter(4, 5), operand(2, 5, 8, 8)
    with packed_convolutions():
        applied(x, weight, 1, up)
        weight.mul_(2.0)
        twice = applied(x, weight, 1, up)
        weight.data = weight.data * 2.0
        four = applied(x, weight, 1, up)
    weight.div_(4.0)
    for factor, found in ((2.0, twice), (4.0, four)):
        assert all(close(a, factor * b, 2e-6) for a, b in zip(found, plain(x, weight, 1, up), strict=True))


def test_what_is_made_of_a_weight_is_kept_while_it_lives_unchanged() -> None:
    weight = parameter(4, 5)
    assert torch.equal(power(weight), weight.square().sum(dim=(2, 3)).t())
    assert power(weight) is power(weight)
    assert swapped(weight) is swapped(weight)
    assert torch.equal(swapped(weight), weight.transpose(0, 1))
    before = power(weight)
    weight.mul_(2.0)
    assert torch.equal(power(weight), 4.0 * before)
    number = id(weight)
    assert number in frozen._kept
    del weight
    gc.collect()
    assert number not in frozen._kept


def test_derivatives_of_a_trained_weight_stay_open() -> None:
    weight = nn.Parameter(parameter(4, 5).detach())
    assert power(weight).requires_grad
    assert swapped(weight).requires_grad
    assert power(weight) is not power(weight)
