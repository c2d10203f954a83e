"""Feature maps of a drag's steps: in bfloat16 as near as its rounding, and recorded ones as those drawn anew."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from data.errors import UsageError
from editing import step_maps as drawing
from editing.drag import DragSettings, Edited, begin, drag, prepare
from editing.drag_losses import kept_loss
from editing.published import PublishedSettings, drag_published
from editing.session import DragSession
from editing.step_maps import Maps, maps_of, recorded, step_maps
from editing.watched_drag import drag_watched
from inversion.generators.stylegan2 import StyleGAN2
from inversion.generators.stylegan3 import StyleGAN3, StyleGAN3Config
from inversion.speed import FAST_TOLERANCE, Speed
from pipeline.schema import RunConfig
from pipeline.work import Setup
from tests.inversions import seeded
from tests.tiny import tiny_generator

HANDLES, TARGETS = [[40.3, 50.8], [90.0, 60.0], [3.0, 125.0]], [[52.0, 44.0], [90.0, 60.0], [9.0, 118.0]]
SETTINGS = DragSettings(steps=12, lr=0.02, frame_every=0)
ASKS_THE_HOST = ("_local_scalar_dense", "lift_fresh", "nonzero", "is_nonzero", "item", "equal")
"""Operators that wait for a number, or bring one from the host: no CUDA graph can hold them."""


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return tiny_generator(128, channels=12)


@pytest.fixture(scope="module")
def w(generator: StyleGAN2) -> Tensor:
    return generator.map(torch.randn(1, generator.z_dim, generator=seeded(3))).detach()


class Tape:
    """What a CUDA graph is to a drag, without a CUDA device: one memory for the latent, the maps and the derivative,
    which every playing writes over; the derivative is always that of the maps drawn last."""

    def __init__(self, drawn: Maps, sample: Tensor) -> None:
        self.drawn, self.latent, self.playings, self.turns = drawn, sample, 0, 0
        self.maps = tuple(x.detach().clone() for x in drawn(sample))
        self.derivative = torch.zeros_like(sample)

    def play(self, ws: Tensor) -> tuple[Tensor, ...]:
        self.playings += 1
        with torch.no_grad():
            self.latent.copy_(ws)
            for kept, now in zip(self.maps, self.drawn(self.latent), strict=True):
                kept.copy_(now)
        return tuple(x.detach() for x in self.maps)

    def turn(self, grads: tuple[Tensor, ...]) -> Tensor:
        self.turns += 1
        with torch.enable_grad():
            maps = self.drawn(self.latent)
        (found,) = torch.autograd.grad(maps, self.latent, grads)
        self.derivative.copy_(found)
        return self.derivative.detach()


class _Played(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ws: Tensor, tape: Tape) -> tuple[Tensor, ...]:
        ctx.tape = tape
        return tape.play(ws)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.tape.turn(grads), None


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    made: list[Tape] = []

    def record(drawn: Maps, samples: tuple[Tensor]) -> Maps:
        tape = Tape(drawn, *samples)
        made.append(tape)
        return lambda ws: _Played.apply(ws, tape)  # type: ignore[no-any-return]

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    monkeypatch.setattr(drawing, "can_record", lambda device: True)
    monkeypatch.setattr("editing.drag_task.can_record", lambda device: True)
    return made


def test_in_bfloat16_maps_are_those_of_float32_but_for_its_rounding(generator: StyleGAN2, w: Tensor) -> None:
    exact, fast = (step_maps(generator, w, (64, 32), None, speed)(w) for speed in ("exact", "fast"))  # type: ignore[arg-type]
    for one, other in zip(exact, fast, strict=True):
        away = float((one - other).norm() / one.norm())
        assert other.dtype == w.dtype
        assert 1e-4 < away < FAST_TOLERANCE


def test_on_a_processor_nothing_is_rounded_unless_it_is_asked_for(generator: StyleGAN2, w: Tensor) -> None:
    wanted = maps_of(generator, w, (64, 32), None)
    found = step_maps(generator, w, (64, 32), None)(w)
    assert all(torch.allclose(x, y, atol=1e-4) for x, y in zip(wanted, found, strict=True))


def test_recording_knows_what_may_be_rounded_and_is_not_remarked_upon(
    generator: StyleGAN2, w: Tensor, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    seen: list[tuple[bool, bool, bool]] = []

    def record(drawn: Maps, samples: tuple[Tensor]) -> Maps:
        warnings.warn("The AccumulateGrad node's stream does not match the stream of ...", UserWarning, stacklevel=1)
        tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        seen.append((*tf32, torch.is_autocast_enabled("cpu")))
        return drawn

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    monkeypatch.setattr(drawing, "can_record", lambda device: True)
    usual = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    for speed in get_args(Speed):
        step_maps(generator, w, (64, 32), None, speed)
    assert dict(zip(get_args(Speed), seen, strict=True)) == {
        "auto": (*usual, False),
        "exact": (False, False, False),
        "fast": (True, True, False),  # autocast is entered by what is drawn
    }
    assert not recwarn.list


def test_edits_know_by_their_keys_what_was_rounded() -> None:
    def told(device: str, speed: str) -> dict[str, bool]:
        setup = object.__new__(Setup)
        object.__setattr__(setup, "config", RunConfig(speed=speed))
        object.__setattr__(setup, "device", torch.device(device))
        return setup.rounding_of_drags

    assert told("cpu", "auto") == told("cpu", "exact") == told("cuda", "exact") == {}
    assert told("cuda", "auto") == {"tf32": True}
    assert told("cuda", "fast") == told("cpu", "fast") == {"fast": True}


def test_a_fast_drag_goes_the_same_way_and_its_picture_is_not_rounded(generator: StyleGAN2, w: Tensor) -> None:
    exact, fast = (
        drag(generator, w, None, HANDLES, TARGETS, settings=replace(SETTINGS, speed=speed))  # type: ignore[arg-type]
        for speed in ("exact", "fast")
    )
    assert torch.equal(fast.tracks[0], exact.tracks[0])
    assert 0 < float((fast.tracks[-1] - exact.tracks[-1]).norm(dim=1).max()) < 1.0
    assert fast.metrics["distance_after_px"] < 0.95 * fast.metrics["distance_before_px"]
    assert torch.equal(fast.image, generator.synthesize(fast.w))


def test_a_fast_drag_starts_where_nothing_has_changed(generator: StyleGAN2, w: Tensor) -> None:
    mask = torch.zeros(1, 1, 128, 128)
    task = prepare(generator, w, None, HANDLES, TARGETS, mask, replace(SETTINGS, speed="fast"))
    assert task.squares is None
    assert float(torch.as_tensor(kept_loss(task, begin(task).features)).detach()) == 0.0


def test_a_drag_refuses_a_speed_that_there_is_not() -> None:
    with pytest.raises(UsageError, match=r"^A drag's speed is quick; it must be one of auto, exact, fast"):
        DragSettings(speed="quick")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"pulls": 3},
        {"tracker": "line_search"},
        {"tracker": "filter", "supervision": "both"},
        {"feature_resolution": 16},
        {"speed": "fast"},
    ],
    ids=["default", "several pulls", "line search", "filter", "one level", "bfloat16"],
)
def test_a_recorded_drag_is_the_drag_that_is_not(
    generator: StyleGAN2, w: Tensor, tapes: list[Tape], more: dict[str, Any]
) -> None:
    settings = replace(SETTINGS, **more)
    mask = torch.ones(1, 1, 128, 128)
    mask[..., 100:] = 0.0

    def dragged() -> Edited:
        return drag(generator, w, None, HANDLES, TARGETS, mask, settings)

    played = dragged()
    assert len(tapes) == 1
    assert tapes[0].turns == played.steps > 3
    assert tapes[0].playings == played.steps + 2  # the start's maps, and those of its first step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "recorded", lambda drawn, w: drawn)
        drawn = dragged()
    assert len(tapes) == 1
    assert torch.equal(played.tracks, drawn.tracks)
    assert torch.equal(played.w, drawn.w)
    assert (played.stop_reason, played.metrics) == (drawn.stop_reason, drawn.metrics)


def test_a_recorded_drag_takes_steps_back_that_led_to_nothing(
    generator: StyleGAN2, w: Tensor, tapes: list[Tape], monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Tensor] = drawing.maps_of  # type: ignore[assignment]
    calls = iter(range(10_000))

    def broken(*args: Any) -> Any:
        maps = real(*args)
        return [x * float("nan") for x in maps] if next(calls) == 9 else maps

    monkeypatch.setattr(drawing, "maps_of", broken)
    edited = drag(generator, w, None, HANDLES, TARGETS, settings=SETTINGS)
    assert edited.metrics["rollbacks"] == 1
    assert edited.metrics["distance_after_px"] < edited.metrics["distance_before_px"]


def test_a_watched_drag_is_the_same_when_it_is_recorded(generator: StyleGAN2, w: Tensor, tapes: list[Tape]) -> None:
    def found(picture: Any) -> Any:
        return torch.tensor(HANDLES).double().numpy() + picture.mean() / 100

    def dragged() -> Edited:
        return drag_watched(generator, w, None, found, HANDLES, TARGETS, settings=SETTINGS)

    played = dragged()
    assert len(tapes) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "recorded", lambda drawn, w: drawn)
        drawn = dragged()
    assert torch.equal(played.w, drawn.w)


def test_a_session_records_once(generator: StyleGAN2, w: Tensor, tapes: list[Tape]) -> None:
    session = DragSession(generator, w, settings=SETTINGS)
    session.start(HANDLES, TARGETS)
    session.step()
    session.set_points(HANDLES, [[50.0, 46.0], [92.0, 60.0], [8.0, 120.0]])
    session.step()
    session.start(HANDLES[:1], TARGETS[:1])
    session.step()
    session.undo()
    session.redo()
    session.start(HANDLES[1:], [[95.0, 64.0], [6.0, 122.0]])
    session.step()
    assert len(tapes) == 1
    other = DragSession(generator, w, settings=SETTINGS)
    other.start(HANDLES, TARGETS)
    assert len(tapes) == 2


def test_a_session_records_again_what_other_weights_draw(w: Tensor, tapes: list[Tape]) -> None:
    generator = tiny_generator(128, channels=12)
    session = DragSession(generator, w, settings=SETTINGS)
    session.start(HANDLES, TARGETS)
    with torch.no_grad():
        generator.synthesis.block(16).conv1.weight.mul_(1.1)
    session.start(HANDLES, TARGETS)
    assert len(tapes) == 2


def test_what_cannot_be_recorded_is_drawn_anew(
    generator: StyleGAN2, w: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(drawn: Maps, samples: tuple[Tensor]) -> Maps:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    def drawn(ws: Tensor) -> tuple[Tensor, ...]:
        return (ws,)

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refuse)
    assert recorded(drawn, w) is drawn


@pytest.mark.parametrize("tracker", ["nearest", "line_search", "filter"])
def test_a_drag_asks_for_no_product_of_whole_numbers(generator: StyleGAN2, w: Tensor, tracker: Any) -> None:
    products: list[tuple[str, torch.dtype]] = []

    class Listen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = str(func).split(".")[1]
            if name in ("mm", "mv", "bmm", "addmm", "addmv", "baddbmm", "dot"):
                products.extend((name, x.dtype) for x in args if isinstance(x, Tensor))
            return func(*args, **(kwargs or {}))

    settings = replace(SETTINGS, tracker=tracker, steps=2)
    with Listen():
        drag(generator, w, None, HANDLES, TARGETS, settings=settings)
        drag_published(generator, w, None, HANDLES, TARGETS, settings=PublishedSettings(steps=2))
    assert len(products) > 50
    assert [row for row in products if not row[1].is_floating_point] == []


def tiny_generator3() -> StyleGAN3:
    torch.manual_seed(0)
    return StyleGAN3(StyleGAN3Config(32, z_dim=16, w_dim=16, channel_base=256, channel_max=8)).requires_grad_(False)


@pytest.mark.parametrize("speed", ["exact", "fast"])
@pytest.mark.parametrize("family", [tiny_generator, tiny_generator3])
def test_what_is_recorded_asks_nothing_of_the_host(family: Callable[[], StyleGAN2 | StyleGAN3], speed: Any) -> None:
    asked: list[str] = []

    class Listen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            asked.append(str(func))
            return func(*args, **(kwargs or {}))

    made = family()
    w = made.map(torch.randn(1, made.z_dim, generator=seeded(3))).detach()
    levels = (32, 16) if isinstance(made, StyleGAN2) else (made.block_resolutions[-1],)
    draw = step_maps(made, w, levels, None, speed)
    draw(w)  # what is computed once, and kept, is computed before anything is recorded
    leaf = w.clone().requires_grad_(True)
    with Listen():
        torch.autograd.grad([x.square().mean() for x in draw(leaf)], leaf)
    assert len(asked) > 50
    assert [name for name in asked if name.split(".")[1] in ASKS_THE_HOST] == []
