"""The benchmark of drags on a device: what it times, what it needs, and that it tells recorded steps from others."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from benchmarks import drag_device
from editing import step_maps as drawing
from editing.drag import DragStep
from inversion.generators.stylegan2 import StyleGAN2
from inversion.speed import Speed
from tests.tiny import tiny_generator

ROOT = Path(__file__).parents[1]
WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("hydra", "omegaconf", "lpips", "dlib"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import benchmarks.drag_device
print("read")
"""


def test_it_needs_neither_hydra_nor_lpips_nor_dlib() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], check=False, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, "read"), done.stderr[-500:]


def test_every_way_is_timed_by_the_same_steps() -> None:
    found = drag_device.step_figures(torch.device("cpu"), 32, steps=3, rounds=1)
    ways = ["published", *drag_device.WAYS]
    assert all(found[f"seconds_{way}_32"] > 0 for way in ways)
    assert found["steps_per_s_32"] == 1.0 / found["seconds_auto_32"]
    assert found["step_speedup_32"] == found["seconds_published_32"] / found["seconds_auto_32"]
    assert all(found[f"seconds_maps_{what}_{speed}"] > 0 for what in ("drawn", "turned") for speed in get_args(Speed))


def test_what_the_host_takes_is_timed_without_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    channels: list[int] = []
    real = drag_device.drag

    def seen(generator: StyleGAN2, *rest: Any, **more: Any) -> Any:
        channels.extend(generator.config.channels(r) for r in generator.block_resolutions)
        return real(generator, *rest, **more)

    monkeypatch.setattr(drag_device, "drag", seen)
    assert drag_device.host_figures(torch.device("cpu"), steps=3)["seconds_host_plain"] > 0
    assert set(channels) == {1}


def test_a_step_is_the_time_from_one_to_the_next_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 20.0, 21.0, 23.0, 26.0])
    monkeypatch.setattr("benchmarks.drag_device.time.perf_counter", lambda: next(clock))
    step = DragStep(1, 6, 0.0, torch.zeros(1, 2), 1.0)

    def run(watch: object) -> None:
        for _ in range(6):
            watch(step)  # type: ignore[operator]

    assert drag_device.timed_steps(torch.device("cpu"), run) == 2.0


def test_steps_that_could_not_be_recorded_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = tiny_generator(64)
    w = drag_device.latent_of(generator, 0)
    assert not drag_device.is_recorded(generator, w)
    monkeypatch.setattr(drawing, "can_record", lambda device: True)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda drawn, sample: partial(drawn))
    assert drag_device.is_recorded(generator, w)

    def refuse(drawn: object, sample: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refuse)
    assert not drag_device.is_recorded(generator, w)


def test_what_is_played_is_compared_with_what_is_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = tiny_generator(64)
    w = drag_device.latent_of(generator, 0)
    assert set(drag_device.recording_figures(generator, w).values()) == {0.0}
    draw, turns = drawing.step_maps, iter((1.0, 1.25))

    def louder(*args: Any) -> drawing.Maps:
        maps, factor = draw(*args), next(turns)
        return lambda ws: tuple(factor * x for x in maps(ws))

    monkeypatch.setattr(drawing, "step_maps", louder)
    found = drag_device.recording_figures(generator, w)
    assert found["recorded_maps_apart"] == pytest.approx(0.25)
    assert found["recorded_derivative_apart"] == pytest.approx(1.25**2 - 1)


def test_points_lie_in_the_picture_and_move_a_little() -> None:
    for seed in range(20):
        handles, targets, mask = drag_device.asked(128, seed, torch.device("cpu"))
        assert float(targets.min()) >= 0 and float(targets.max()) <= 127
        assert float((targets - handles).abs().max()) <= drag_device.MOVE * 128
        assert all(mask[0, 0, int(y), int(x)] == 1 for x, y in handles.tolist())
