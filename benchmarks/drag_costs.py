"""What one step of a drag costs on random-weight generators: processor seconds and peak memory.

    python benchmarks/drag_costs.py published|ours|whole RESOLUTION POINTS mask|free STEPS

One variant a process, so that its peak memory is its own; prints one line of JSON. `published` is DragGAN as published,
`whole` our drag with whole feature maps, `ours` our default. At 128 px it is the embedded generator.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

import torch

from benchmarks.step_costs import peak_gb, random_generator
from editing import squares
from editing.drag import DragSettings, DragStep, drag
from editing.published import PublishedSettings, drag_published
from pipeline.memory import keep_freed_memory

WARM_UP = 1


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
