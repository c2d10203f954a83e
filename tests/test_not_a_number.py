"""Losses and pictures that are not numbers: steps are taken back and made smaller, results are finite, it is said."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from editing import drag as drag_module
from editing.drag import DragStep, drag
from inversion import losses
from inversion.generators.stylegan2 import StyleGAN2
from inversion.losses import ReconstructionWeights, Targets
from inversion.optimisation import (
    GOOD_EVERY,
    MOST_ROLLBACKS,
    DivergedError,
    Evaluation,
    OptimisationLoop,
    StepInfo,
    StopRule,
)
from inversion.perceptual import FacePerceptual
from inversion.pivotal import TuneSettings, tune
from inversion.projector import ProjectorSettings, project
from pipeline.frames import FrameKeeper
from pipeline.run import run
from pipeline.schema import SampleConfig
from pipeline.stages import sample
from tests.inversions import PIXELS, samples, seeded
from tests.runs import manifest_of, run_dir, short_config
from tests.test_drag import CENTRES, QUICK, Parts
from tests.tiny import tiny_generator

SETTINGS = ProjectorSettings(
    steps=24, start_samples=4, w_stats_samples=50, latent_noise=0.0, weights=PIXELS, noise_weight=10.0
)
TUNING = TuneSettings(steps=24, weights=ReconstructionWeights(perceptual=0.0, pixel=1.0))
Broken = Callable[[Callable[[int], bool]], list[int]]


@pytest.fixture(scope="module")
def tiny() -> StyleGAN2:
    return tiny_generator(32)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Broken:
    """broken(when) makes the loss NaN at those calls of an optimisation, counted from 0; the list tells the steps."""

    real = losses.ReconstructionLoss.__call__

    def install(when: Callable[[int], bool]) -> list[int]:
        steps = list[int]()

        def loss(self: losses.ReconstructionLoss, drawn: Any, step: int) -> Tensor:
            found = real(self, drawn, step)
            if not torch.is_grad_enabled():  # the choice of a start is no step
                return found
            steps.append(step)
            return found * float("nan") if when(len(steps) - 1) else found

        monkeypatch.setattr(losses.ReconstructionLoss, "__call__", loss)
        return steps

    return install


def is_finite(*tensors: Tensor) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def test_an_inversion_goes_back_to_its_last_good_state_and_on_in_smaller_steps(
    tiny: StyleGAN2, face: FacePerceptual, broken: Broken
) -> None:
    steps = broken(lambda call: call in (15, 18))
    told: list[StepInfo] = []
    found = project(tiny, Targets(samples(tiny, 1, 3), face), SETTINGS, seeded(), on_step=told.append)
    assert steps == [*range(16), *range(10, 13), *range(10, 24)]
    assert (found.stop_reason, found.steps, found.metrics["rollbacks"]) == ("cap", 24, 2.0)
    assert is_finite(found.w, found.image, *found.noise.values())
    assert len(found.history["loss"]) == 24 and all(map(math.isfinite, found.history["loss"]))
    assert [info.rollbacks for info in told] == [0] * 15 + [1] * 2 + [2] * 14
    assert found.history["reconstruction"][-1] < found.history["reconstruction"][0]


def test_a_tuning_does_the_same_and_its_delta_is_finite(tiny: StyleGAN2, face: FacePerceptual, broken: Broken) -> None:
    target = Targets(samples(tiny, 1, 3), face)
    inversion = project(tiny, target, SETTINGS, seeded())
    assert "rollbacks" not in inversion.metrics
    broken(lambda call: call == 12)
    tuned = tune(tiny, target, inversion, TUNING, seeded())
    assert (tuned.stop_reason, tuned.steps, tuned.metrics["rollbacks"]) == ("cap", 24, 1.0)
    assert is_finite(tuned.image, *tuned.delta.values())


def test_what_is_continued_goes_back_to_the_same_state_as_the_unbroken_run(
    tiny: StyleGAN2, face: FacePerceptual, broken: Broken
) -> None:
    target, states = Targets(samples(tiny, 1, 3), face), dict[int, dict[str, Any]]()
    broken(lambda call: call in (12, 19))
    whole = project(tiny, target, SETTINGS, seeded(), on_step=lambda info: states.update({len(states): info.state()}))
    before, between = 11, 14
    assert (states[before]["rollbacks"], states[between]["rollbacks"]) == (0, 1)
    for resumed_at, then in ((before, (0, 7)), (between, (4,))):  # the calls that are broken, counted from there on
        broken(then.__contains__)
        found = project(tiny, target, SETTINGS, seeded(), resume=states[resumed_at])
        assert found.metrics == whole.metrics and found.history == whole.history
        assert torch.equal(found.w, whole.w) and torch.equal(found.image, whole.image)


def test_what_does_not_end_is_given_up_with_the_best_state(
    tiny: StyleGAN2, face: FacePerceptual, broken: Broken
) -> None:
    steps = broken(lambda call: call >= 15)
    found = project(tiny, Targets(samples(tiny, 1, 3), face), SETTINGS, seeded())
    assert (found.stop_reason, found.metrics["rollbacks"]) == ("diverged", MOST_ROLLBACKS)
    assert is_finite(found.w, found.image)
    assert len(steps) == 16 + MOST_ROLLBACKS
    assert steps[-1] == GOOD_EVERY


def test_without_any_good_state_it_is_one_sentence(tiny: StyleGAN2, face: FacePerceptual, broken: Broken) -> None:
    target = Targets(samples(tiny, 1, 3), face)
    inversion = project(tiny, target, SETTINGS, seeded())
    broken(lambda _: True)
    with pytest.raises(DivergedError, match=r"not a number, at its start or again .*: lower invert\.lr"):
        project(tiny, target, SETTINGS, seeded())
    with pytest.raises(DivergedError, match=r"lower tune\.lr or check the generator"):
        tune(tiny, target, inversion, TUNING, seeded())


def test_the_last_step_of_a_short_optimisation_leads_nowhere_else(tiny: StyleGAN2) -> None:
    variable = torch.ones(2, requires_grad=True)
    loop = OptimisationLoop({"x": variable}, 0.1, 6, seeded())

    def evaluate(_: int) -> Evaluation:
        loss = (variable - 1).square().sum().sqrt()[None]  # 0 with a derivative that is no number
        return Evaluation(loss, loss)

    assert loop.run(1, evaluate, StopRule()) == "cap"
    assert not is_finite(variable)
    assert torch.equal(loop.result()["x"], torch.ones(2))


def test_frames_of_steps_that_were_taken_back_are_dropped() -> None:
    keeper = FrameKeeper(2, lambda _: torch.zeros(1, 3, 8, 8))
    for step in (1, 2, 3, 4, 5, 3, 4, 5, 6):
        keeper.keep(StepInfo(step, 6, 1.0, lambda: {"variable/w": torch.zeros(1, 1, 4)}))
    assert keeper.tensors()["step"].tolist() == [1, 2, 4, 6]
    assert len(keeper.tensors()["w"]) == 4


@pytest.fixture
def broken_drag(monkeypatch: pytest.MonkeyPatch) -> Broken:
    """As `broken`, for the loss of a drag."""

    real = drag_module.total_loss

    def install(when: Callable[[int], bool]) -> list[int]:
        calls = list[int]()

        def loss(*given: Any) -> Tensor:
            calls.append(len(calls))
            return real(*given) * (float("nan") if when(calls[-1]) else 1.0)

        monkeypatch.setattr(drag_module, "total_loss", loss)
        return calls

    return install


def test_a_drag_takes_its_step_back_and_still_arrives(broken_drag: Broken) -> None:
    parts, w = Parts(), torch.zeros(1, Parts.num_ws, Parts.w_dim)
    (x, y), settings = CENTRES[0], replace(QUICK, pulls=1, stop_px=0.5)
    told: list[DragStep] = []
    broken_drag(lambda call: call == 3)
    found = drag(parts, w, None, [(x, y)], [(x + 3, y)], settings=settings, on_step=told.append)
    assert (found.stop_reason, found.metrics["rollbacks"]) == ("arrived", 1.0)
    assert len(found.tracks) == found.steps + 1
    assert [step.rollbacks for step in told] == [0] * 3 + [1] * (len(told) - 3)
    assert told[3].step == told[2].step
    assert is_finite(found.w, found.image, found.tracks)


def test_a_drag_that_only_leads_to_what_is_no_number_ends_where_it_was_best(broken_drag: Broken) -> None:
    parts, w = Parts(), torch.zeros(1, Parts.num_ws, Parts.w_dim)
    (x, y), settings = CENTRES[0], replace(QUICK, pulls=1)
    calls = broken_drag(lambda call: call >= 2)
    found = drag(parts, w, None, [(x, y)], [(x + 3, y)], settings=settings)
    assert found.stop_reason == "diverged"
    assert len(calls) == 2 + MOST_ROLLBACKS + 1
    assert found.metrics["distance_after_px"] < found.metrics["distance_before_px"]
    assert is_finite(found.w, found.image)


def test_a_generator_that_draws_no_numbers_is_named(tiny: StyleGAN2) -> None:
    broken = tiny_generator(32)
    broken.synthesis.block(32).torgb.weight.fill_(float("nan"))
    w = tiny.w_avg[None, None].repeat(1, tiny.num_ws, 1)
    with pytest.raises(DivergedError, match=r"edit's latent or picture is not made of numbers: .* check the generator"):
        drag(broken, w, None, [(10.0, 10.0)], [(14.0, 10.0)])
    with pytest.raises(DivergedError, match="generated picture is not made of numbers"):
        sample(broken, SampleConfig(), torch.device("cpu"))


def test_a_run_says_that_steps_were_taken_back(
    generator: Path, tmp_path: Path, broken: Broken, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(lambda call: call in (4, 5))
    run(short_config(generator, tmp_path, stages=["align", "invert"]))
    printed = capsys.readouterr()
    assert "warning: invert: the loss was not a number, so it went back to its last good state" in printed.err
    assert "steps are 1/4 as long" in printed.err
    assert "taken back 2 times where the loss was not a number" in printed.out
    (entry,) = [entry for entry in manifest_of(run_dir(tmp_path))["stages"] if entry["stage"] == "invert"]
    assert entry["metrics"]["rollbacks"] == 2.0
