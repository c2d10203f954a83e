"""What one optimisation step costs on random-weight generators: processor seconds, peak memory, the file it leaves.

    python benchmarks/step_costs.py tune_plain|tune|project|project_coarse|bare RESOLUTION STEPS

One variant a process, so that its peak memory is its own; prints one line of JSON. `tune_plain` moves whole weights
and compares whole pictures at the generator's resolution, `tune` and `project` are our defaults, `project_coarse` is a
step of an inversion's first part. `bare` is synthesis forward and backward with one pass of the perceptual trunk, whose
target features are cached, and nothing else.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

import torch

from inversion.generators.protocol import Generator
from inversion.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from inversion.latents import latent_stats
from inversion.losses import ReconstructionLoss, Targets
from inversion.optimisation import StepInfo
from inversion.perceptual import FacePerceptual
from inversion.pivotal import TuneSettings, tune
from inversion.projector import Inversion, ProjectorSettings, project
from pipeline.memory import keep_freed_memory
from pipeline.models import embedded_generator, read_face_network, read_generator
from pipeline.schema import GeneratorConfig

WARM_UP = 1


def main() -> None:
    """Measure one variant in this process."""
    variant, resolution, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    generator = random_generator(resolution)
    perceptual = FacePerceptual(read_face_network(torch.device("cpu")))
    target = torch.rand(1, 3, resolution, resolution) * 2 - 1
    started = peak_gb()
    seconds, found = measure(variant, generator, perceptual, target, steps + WARM_UP)
    kept = seconds[WARM_UP:]
    print(
        json.dumps(
            {
                "seconds": statistics.median(kept),
                "memory_gb": peak_gb() - started,
                "peak_gb": peak_gb(),
                "delta_mb": found,
            }
        )
    )


def random_generator(resolution: int) -> Generator:
    """A StyleGAN2 of the published shape with random weights; at 128 px the embedded generator."""
    if resolution == 128:
        return read_generator(GeneratorConfig(path=str(embedded_generator())), torch.device("cpu")).module
    return StyleGAN2(StyleGAN2Config(resolution)).eval().requires_grad_(False)


def peak_gb() -> float:
    """Most memory that this process has held, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure(
    variant: str, generator: Generator, perceptual: FacePerceptual, target: torch.Tensor, steps: int
) -> tuple[list[float], float]:
    """Processor seconds of each step, and MB of what a tuning leaves."""
    rng, times = torch.Generator().manual_seed(0), [time.process_time()]

    def watch(_: StepInfo) -> None:
        times.append(time.process_time())

    w = generator.map(torch.randn(1, generator.z_dim, generator=rng))
    size_mb = 0.0
    if variant in ("project", "project_coarse"):
        coarse = float(variant == "project_coarse")
        settings = ProjectorSettings(steps=steps, start="mean", w_stats_samples=1000, coarse_until=coarse)
        stats = latent_stats(generator, 1000, rng)
        project(generator, Targets(target, perceptual), settings, rng, on_step=watch, stats=stats)
    elif variant == "bare":
        bare_steps(generator, perceptual, target, w, steps, lambda: times.append(time.process_time()))
    else:
        settings = TuneSettings(steps=steps)
        if variant == "tune_plain":
            settings = replace(settings, rank=0, compare_px=generator.resolution)
        pivot = Inversion(w, generator.noise_maps(), target, {}, "", 0, {})
        tuned = tune(generator, Targets(target, perceptual), pivot, settings, rng, on_step=watch)
        size_mb = sum(value.numel() * value.element_size() for value in tuned.factors.values()) / 1e6
    return [after - before for before, after in pairwise(times[1:])], size_mb


def bare_steps(
    generator: Generator,
    perceptual: FacePerceptual,
    target: torch.Tensor,
    w: torch.Tensor,
    steps: int,
    tick: Callable[[], None],
) -> None:
    """Synthesis and one trunk pass, forward and backward, without optimiser, penalties or bookkeeping."""
    settings = ProjectorSettings()
    loss_of = ReconstructionLoss(Targets(target, perceptual), settings.weights)
    leaf = w.clone().requires_grad_(True)
    noise = {name: value.clone().requires_grad_(True) for name, value in generator.noise_maps().items()}
    for step in range(steps):
        leaf.grad = None
        loss_of(generator.synthesize(leaf, "const", noise), step).sum().backward()
        tick()


def in_process(variant: str, resolution: int, steps: int) -> dict[str, float]:
    """The figures of one variant, measured in a process of its own."""
    command = [sys.executable, __file__, variant, str(resolution), str(steps)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
    return figures


def figures(quick: bool) -> dict[str, float]:
    """Ratios of our steps to plain ones: medians over rounds in which the variants take turns."""
    rounds, steps = (1, 3) if quick else (3, 4)
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for variant, resolution, count in (
            ("tune_plain", 1024, steps),
            ("tune", 1024, steps),
            ("project", 1024, steps),
            ("project_coarse", 1024, steps),
            ("tune_plain", 256, steps),
            ("tune", 256, steps),
            ("bare", 256, 2 * steps),
            ("project", 256, 2 * steps),
            ("bare", 128, 30),
            ("project", 128, 30),
            ("project_coarse", 128, 30),
        ):
            found.setdefault(f"{variant}_{resolution}", []).append(in_process(variant, resolution, count))

    def median(case: str, key: str) -> float:
        return statistics.median(row[key] for row in found[case])

    result = {
        "step_time_ratio_1024": median("tune_1024", "seconds") / median("tune_plain_1024", "seconds"),
        "step_memory_ratio_1024": median("tune_1024", "peak_gb") / median("tune_plain_1024", "peak_gb"),
        "delta_mb_1024": median("tune_1024", "delta_mb"),
        "step_time_ratio_256": median("tune_256", "seconds") / median("tune_plain_256", "seconds"),
        "projector_overhead_ratio": median("project_128", "seconds") / median("bare_128", "seconds"),
        "projector_overhead_ratio_256": median("project_256", "seconds") / median("bare_256", "seconds"),
    }
    for side in (1024, 128):
        coarse, fine = median(f"project_coarse_{side}", "seconds"), median(f"project_{side}", "seconds")
        result[f"coarse_step_ratio_{side}"] = coarse / fine
    for case in found:
        result[f"{case}_step_seconds"] = median(case, "seconds")
    for case in ("tune_plain_1024", "tune_1024"):
        result[f"{case}_peak_gb"] = median(case, "peak_gb")
    return result


if __name__ == "__main__":
    main()
