"""What one step of a drag costs on random-weight generators: processor seconds and peak memory.

    python benchmarks/drag_costs.py published|ours|whole|parts RESOLUTION POINTS mask|free STEPS

One variant a process, so that its peak memory is its own; prints one line of JSON. `published` is DragGAN as published,
`whole` our drag with whole feature maps, `ours` our default, and `parts` what the parts of our step take. At 128 px it
is the embedded generator.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

import torch

from benchmarks.step_costs import peak_gb, random_generator
from editing import squares
from editing.drag import DragSettings, DragStep, DragTask, begin, drag, prepare, render_features
from editing.drag_losses import total_loss
from editing.drag_task import latent
from editing.following import follow
from editing.published import PublishedSettings, drag_published
from editing.squares import near
from editing.step_maps import maps_of
from inversion.generators.packed import packed_convolutions
from pipeline.memory import keep_freed_memory

WARM_UP = 1

Result = TypeVar("Result")


def parts_of(task: DragTask, steps: int) -> dict[str, float]:
    """Median processor seconds of each part of a step: the last whole map alone, features with it, the loss, its
    derivative, and finding the handles again."""
    state, found = begin(task), []
    leaf = state.code.detach()
    for step in range(steps + WARM_UP):
        with torch.no_grad(), packed_convolutions():
            base = _timed(lambda: maps_of(task.generator, latent(task, leaf), task.levels[-1:], task.noise))[1]
        (features, code), forward = _timed(partial(render_features, task, leaf, state.points, step))
        loss, supervised = _timed(partial(total_loss, task, code, features, state.points, state.lost, state.trail))
        _, backward = _timed(partial(torch.autograd.grad, loss, code))
        with torch.no_grad():
            _, tracked = _timed(partial(follow, task, state.trail, state.points, near(features)))
        found.append(
            {"base": base, "features": forward, "loss": supervised, "derivative": backward, "tracking": tracked}
        )
    return {name: statistics.median(row[name] for row in found[WARM_UP:]) for name in found[0]}


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What a call gives, and the processor seconds that it took."""
    started = time.process_time()
    result = work()
    return result, time.process_time() - started


def main() -> None:
    """Measure one variant in this process."""
    variant, resolution, points, mask_word, steps = sys.argv[1], *map(int, sys.argv[2:4]), sys.argv[4], int(sys.argv[5])
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    generator = random_generator(resolution)
    w = generator.map(torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(0)))
    rng = torch.Generator().manual_seed(1)
    handles = (0.3 + 0.4 * torch.rand(points, 2, generator=rng)) * resolution
    targets = handles + 0.1 * resolution * (torch.rand(points, 2, generator=rng) - 0.5)
    mask = None
    if mask_word == "mask":
        mask = torch.zeros(1, 1, resolution, resolution)
        mask[..., resolution // 4 : 3 * resolution // 4, resolution // 4 : 3 * resolution // 4] = 1.0
    if variant == "parts":
        task = prepare(generator, w, None, handles, targets, mask, DragSettings(stop_px=1e-6, frame_every=0))
        print(json.dumps(parts_of(task, steps)))
        return
    times = [time.process_time()]

    def watch(_: DragStep) -> None:
        times.append(time.process_time())

    total = steps + WARM_UP
    if variant == "published":
        paper = PublishedSettings(steps=total, stop_px=1e-6, frame_every=0)
        drag_published(generator, w, None, handles, targets, mask, paper, watch)
    else:
        squares.WORTHWHILE = 0.0 if variant == "whole" else squares.WORTHWHILE
        settings = DragSettings(steps=total, stop_px=1e-6, frame_every=0)
        drag(generator, w, None, handles, targets, mask, settings, watch)
    seconds = [after - before for before, after in pairwise(times[1:])]
    print(json.dumps({"seconds": statistics.median(seconds), "peak_gb": peak_gb()}))


if __name__ == "__main__":
    main()
