"""Steps a second of drags on a device, and whether its faster ways land where the exact one lands.

    python benchmarks/drag_device.py [--device cuda] [--resolution 1024] [--rounds 3] [--pairs 24] [--json F]

Five points and a mask on a random-weight StyleGAN2: DragGAN as published, and our drag with its maps drawn anew or
recorded, in float32, with convolutions in TF32 (auto) or in bfloat16, in turns in one process; a step ends when the
device has done it, and recording counts for the start of a drag. The maps alone, and with their derivative. Then drags
on the embedded generator, of places where aligned faces have eyes, nose and mouth: how far from their targets they end
by each way, by its own tracker, and how far from the exact one's ends. On a processor nothing is recorded or rounded to
TF32, and the ways that would be are the others once more. Nothing here needs dlib, LPIPS or Hydra, so a machine with
PyTorch, NumPy and safetensors can run it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import get_args
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

import torch
from torch import Tensor

from editing import squares
from editing import step_maps as drawing
from editing.drag import DragSettings, DragStep, begin, drag, prepare
from editing.drag_task import AUTO_BLOCK_PX, pick_levels, pick_resolution
from editing.published import PublishedSettings, drag_published
from inversion.generators.checkpoint import load_generator
from inversion.generators.protocol import Generator
from inversion.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from inversion.speed import Speed, set_tf32

WARM_UP = 2
POINTS = ((0.37, 0.47), (0.63, 0.47), (0.5, 0.62), (0.41, 0.72), (0.59, 0.72))
"""Eyes, nose tip and mouth corners of an aligned face, in shares of its side."""
MOVE = 0.04  # of the side, at most either way
WAYS: dict[str, tuple[Speed, bool]] = {
    "exact": ("exact", True),
    "auto_plain": ("auto", False),
    "auto": ("auto", True),
    "fast_plain": ("fast", False),
    "fast": ("fast", True),
}
"""Speed and whether steps are recorded."""


def asked(size: int, seed: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Handles and targets [5, 2] in pixels, and a mask [1, 1, R, R] of the middle."""
    rng = torch.Generator().manual_seed(seed)
    handles = torch.tensor(POINTS) * (size - 1)
    targets = handles + MOVE * size * (2 * torch.rand(len(handles), 2, generator=rng) - 1)
    mask = torch.zeros(1, 1, size, size, device=device)
    mask[..., size // 4 : 7 * size // 8, size // 5 : 4 * size // 5] = 1.0
    return handles.to(device), targets.to(device), mask


def latent_of(generator: Generator, seed: int, psi: float = 0.7) -> Tensor:
    """A latent [1, L, D] of a seed."""
    z = torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    return generator.map(z.to(generator.w_avg), truncation_psi=psi).detach()


def timed_steps(device: torch.device, run: Callable[[Callable[[DragStep], None]], object]) -> float:
    """Median seconds of a step of the drag that `run` makes, without the first WARM_UP."""
    ends: list[float] = []

    def watch(_: DragStep) -> None:
        wait(device)
        ends.append(time.perf_counter())

    run(watch)
    steps = [after - before for before, after in zip(ends[WARM_UP:], ends[WARM_UP + 1 :], strict=False)]
    return statistics.median(steps)


def step_figures(device: torch.device, resolution: int, steps: int, rounds: int) -> dict[str, float]:
    """Seconds of a step by every way, the memory each takes at most, and steps a second by the default one."""
    torch.manual_seed(0)
    generator = StyleGAN2(StyleGAN2Config(resolution)).eval().requires_grad_(False).to(device)
    w = latent_of(generator, 0)
    points = asked(resolution, 1, device)
    seconds: dict[str, list[float]] = {}
    memory: dict[str, float] = {}

    def measure(name: str, run: Callable[[Callable[[DragStep], None]], object]) -> None:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds.setdefault(name, []).append(timed_steps(device, run))
        if device.type == "cuda":
            memory[name] = torch.cuda.max_memory_allocated(device) / 1e9

    total = steps + WARM_UP
    paper = PublishedSettings(steps=total, stop_px=1e-6, frame_every=0)
    for _ in range(rounds):
        set_tf32("auto")
        measure("published", lambda watch: drag_published(generator, w, None, *points, paper, watch))
        for name, (speed, record) in WAYS.items():
            settings = DragSettings(steps=total, stop_px=1e-6, frame_every=0, speed=speed)
            set_tf32(speed)
            with mock.patch.object(drawing, "can_record", lambda d, record=record: record and d.type == "cuda"):
                measure(name, lambda watch, s=settings: drag(generator, w, None, *points, s, watch))
    found = {f"seconds_{name}_{resolution}": statistics.median(row) for name, row in seconds.items()}
    found |= {f"memory_gb_{name}_{resolution}": most for name, most in memory.items()}
    found[f"steps_per_s_{resolution}"] = 1.0 / found[f"seconds_auto_{resolution}"]
    found[f"step_speedup_{resolution}"] = found[f"seconds_published_{resolution}"] / found[f"seconds_auto_{resolution}"]
    for _ in range(rounds):
        for name, more in map_figures(generator, w, steps).items():
            seconds.setdefault(name, []).append(more)
    found |= {f"seconds_{name}": statistics.median(row) for name, row in seconds.items() if name.startswith("maps_")}
    if device.type == "cuda":
        found["recorded"] = float(is_recorded(generator, w))
        found |= recording_figures(generator, w)
        started = time.perf_counter()
        begin(prepare(generator, w, None, *points, DragSettings(frame_every=0)))
        torch.cuda.synchronize(device)
        found["seconds_to_start"] = time.perf_counter() - started
    return found


def map_figures(generator: Generator, w: Tensor, times: int) -> dict[str, float]:
    """Seconds in which the maps of a step are drawn by each speed, alone and with their derivative."""
    found: dict[str, float] = {}
    levels = pick_levels(generator, pick_resolution(generator, 0, AUTO_BLOCK_PX))
    for speed in get_args(Speed):
        maps, latent = drawing.step_maps(generator, w, levels, None, speed), w.clone().requires_grad_(True)

        def turned(maps: drawing.Maps = maps, latent: Tensor = latent) -> None:
            torch.autograd.grad([x.sum() for x in maps(latent)], latent)

        for name, work in (("drawn", partial(maps, latent)), ("turned", turned)):
            work()
            wait(w.device)
            started = time.perf_counter()
            for _ in range(times):
                work()
            wait(w.device)
            found[f"maps_{name}_{speed}"] = (time.perf_counter() - started) / times
    return found


def recording_figures(generator: Generator, w: Tensor) -> dict[str, float]:
    """How far played maps and their derivative lie from those drawn anew at most, in shares of the largest value."""
    levels = pick_levels(generator, pick_resolution(generator, 0, AUTO_BLOCK_PX))
    found: dict[str, list[Tensor]] = {}
    for name, record in (("anew", False), ("played", True)):
        with mock.patch.object(drawing, "can_record", lambda d, record=record: record and d.type == "cuda"):
            draw = drawing.step_maps(generator, w, levels, None)
        latent = (w + 0.1).requires_grad_(True)  # not the latent that was recorded with
        maps = draw(latent)
        (derivative,) = torch.autograd.grad([x.square().mean() for x in maps], latent)
        found[name] = [*(x.detach().clone() for x in maps), derivative.clone()]
    apart = [float((x - y).abs().max() / x.abs().max()) for x, y in zip(found["anew"], found["played"], strict=True)]
    return {"recorded_maps_apart": max(apart[:-1]), "recorded_derivative_apart": apart[-1]}


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def host_figures(device: torch.device, steps: int) -> dict[str, float]:
    """Seconds of a step of a generator of one channel up to the 64 px block, drawn anew and, on CUDA, recorded: no
    arithmetic to speak of, so what the host takes to ask for a step."""
    torch.manual_seed(0)
    config = StyleGAN2Config(64, z_dim=32, w_dim=32, channel_base=64, channel_max=1, mapping_layers=2)
    generator = StyleGAN2(config).eval().requires_grad_(False).to(device)
    w, points, found = latent_of(generator, 0), asked(64, 1, device), {}
    settings = DragSettings(steps=steps + WARM_UP, stop_px=1e-6, frame_every=0, pace="even", r1_px=20.0, speed="exact")
    for name, record in (("plain", False), *([("recorded", True)] if device.type == "cuda" else [])):
        with (
            mock.patch.object(drawing, "can_record", lambda d, record=record: record and d.type == "cuda"),
            mock.patch.object(squares, "WORTHWHILE", 0.0),
        ):
            run = partial(drag, generator, w, None, *points, settings)
            found[f"seconds_host_{name}"] = timed_steps(device, run)
    return found


def is_recorded(generator: Generator, w: Tensor) -> bool:
    """Whether the maps of this generator are played, and not drawn anew because they could not be recorded."""
    plain: list[drawing.Maps] = []
    real = drawing.recorded

    def told(drawn: drawing.Maps, like: Tensor) -> drawing.Maps:
        plain.append(drawn)
        return real(drawn, like)

    with mock.patch.object(drawing, "recorded", told):
        found = drawing.step_maps(generator, w, (64, 32), None)
    return bool(plain) and found is not plain[0]


def landing_figures(device: torch.device, pairs: int) -> dict[str, float]:
    """Of drags on the embedded generator by every way: mean distance left in pixels of 512, share that arrived, mean
    move of the latent; and how far the ends lie from those of `exact`, in pixels of 512."""
    folder = Path(__file__).resolve().parents[1] / "data" / "embedded"
    generator = load_generator(next(folder.glob("*.safetensors")))[0].to(device)
    scale = 512 / generator.resolution
    found: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in WAYS}
    for number in range(pairs):
        w, points = latent_of(generator, number), asked(generator.resolution, number, device)
        ends: dict[str, Tensor] = {}
        for name, (speed, record) in WAYS.items():
            settings = DragSettings(frame_every=0, speed=speed)
            set_tf32(speed)
            with mock.patch.object(drawing, "can_record", lambda d, record=record: record and d.type == "cuda"):
                edited = drag(generator, w, None, *points, settings)
            ends[name] = edited.tracks[int(edited.metrics["best_step"])]
            found[name].append(
                (
                    edited.metrics["distance_after_px"] * scale,
                    float(edited.stop_reason == "arrived"),
                    edited.metrics["latent_move"],
                    float((ends[name] - ends["exact"]).norm(dim=1).mean()) * scale,
                )
            )
    names = ("after_px", "arrived", "latent_move", "from_exact_px")
    return {
        f"{what}_{name}": statistics.fmean(row[number] for row in rows)
        for name, rows in found.items()
        for number, what in enumerate(names)
    }


def main() -> None:
    """Measure and print, and write a JSON file when one is named."""
    parser = argparse.ArgumentParser(description="Steps a second of drags on a device.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resolution", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    told: dict[str, object] = {"device": name, "torch": torch.__version__}
    parts: list[Callable[[], dict[str, float]]] = []
    if arguments.rounds:
        parts.append(lambda: host_figures(device, arguments.steps))
        parts.append(lambda: step_figures(device, arguments.resolution, arguments.steps, arguments.rounds))
    if arguments.pairs:
        parts.append(lambda: landing_figures(device, arguments.pairs))
    for part in parts:
        told |= part()
        for key, value in told.items():
            print(f"{key:28} {value}")
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(told, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
