"""Landmarks of generated faces dragged to where others have them, by several methods: their figures and seconds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import cache, partial

import torch

from benchmarks.common import in_processes, load_tools
from benchmarks.drag_moves import (
    METHODS,
    SETS,
    KeptDrags,
    Move,
    Outcome,
    Outcomes,
    Start,
    all_moves,
    by_points,
    landmarks_of,
    make,
    move_of,
)

PSI = 0.7
TIMED = 6
"""Pairs that every method drags in turns, for their seconds."""


@cache
def drawn(seed: int) -> Start:
    """One sample of the generator, seen by dlib."""
    generator = load_tools().generator.module
    z = torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        w = generator.map(z, truncation_psi=PSI)
        image = generator.synthesize(w, "const")
    return Start(generator, w, None, image, landmarks_of(image))


def pair_of(number: int, points: int) -> tuple[Start, Move] | None:
    """The first of the samples (2 n, 2 n + 1) and the move of its landmarks to the second's; None without two faces."""
    start = drawn(2 * number)
    move = move_of(start, drawn(2 * number + 1).landmarks, points)
    return None if move is None else (start, move)


def make_pair(number: int, methods: Sequence[str], kept: KeptDrags) -> Outcomes:
    """The drags of a pair, made where they are not kept, and measured."""
    torch.set_num_threads(1)
    turns = methods if number % 2 else list(reversed(methods))
    return all_moves(f"pair{number:04d}", drawn(2 * number), drawn(2 * number + 1).landmarks, turns, kept)


def make_pairs(
    pairs: int, methods: Sequence[str], kept: KeptDrags, workers: int
) -> dict[int, dict[str, list[Outcome]]]:
    """The drags of the first pairs: points -> method -> outcomes in the pairs' order, those without two faces out."""
    work = partial(make_pair, methods=methods, kept=kept)
    return by_points(in_processes(work, range(pairs), workers, "pairs"))


def timed(item: tuple[int, int, str]) -> float | None:
    """Processor seconds of a drag that is made for its time."""
    torch.set_num_threads(1)
    number, points, method = item
    pair = pair_of(number, points)
    return None if pair is None else make(*pair, method, there_and_back=False).seconds


def seconds_figures() -> dict[str, float]:
    """Median seconds of both methods on a few pairs, in turns in one process, and the median of their ratios."""
    found: dict[str, float] = {}
    ratios = []
    for points in SETS:
        items = [(number, points, method) for number in range(TIMED) for method in METHODS]
        seconds = in_processes(timed, items, 1, f"seconds, {points} points")
        rows = [row for row in zip(*(seconds[i :: len(METHODS)] for i in range(len(METHODS))), strict=True) if all(row)]
        for method, column in zip(METHODS, zip(*rows, strict=True), strict=True):
            found[f"timed_seconds_{points}_{method}"] = statistics.median(column)
        found[f"seconds_ratio_{points}"] = statistics.median(ours / published for published, ours in rows)
        ratios.append(found[f"seconds_ratio_{points}"])
    return found | {"seconds_ratio": statistics.fmean(ratios)}
