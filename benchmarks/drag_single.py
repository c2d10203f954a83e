"""One landmark of generated pairs, any of dlib's 68, dragged by our default and as published.

    python benchmarks/drag_single.py LANDMARK [--pairs 31] [--workers N] [--json FILE]

Landmark 48 is a mouth's corner, 37 an upper lid, 8 the chin; `benchmarks/drag.py` drags the nose tip. Distances are in
pixels of a 512 px picture from where the second face has the landmark; ratios are ours over published.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

import torch

from benchmarks.common import in_processes, tell
from benchmarks.drag_moves import METHODS, SETS, Outcome, make, measured
from benchmarks.drag_pairs import pair_of


def single(number: int, landmark: int) -> dict[str, Outcome]:
    """A pair's drags by every method; nothing where one of its pictures shows no face, or not one."""
    torch.set_num_threads(1)
    SETS[1] = [landmark]
    pair = pair_of(number, 1)
    if pair is None:
        return {}
    return {method: measured(*pair, make(*pair, method, there_and_back=False)) for method in METHODS}


def single_figures(rows: list[dict[str, Outcome]]) -> dict[str, float]:
    """Means over the pairs, and their ratios."""
    found = {"pairs": float(len(rows)), "before_px": statistics.fmean(row["ours"].before_px for row in rows)}
    for name in ("after_px", "identity", "outside"):
        mean = {method: statistics.fmean(getattr(row[method], name) for row in rows) for method in METHODS}
        found |= {f"{name}_{method}": value for method, value in mean.items()}
        found[f"{name}_ratio"] = mean["ours"] / mean["published"]
    for method in METHODS:
        found[f"steps_{method}"] = statistics.fmean(row[method].made.steps for row in rows)
        found[f"arrived_{method}"] = statistics.fmean(row[method].made.reason == "arrived" for row in rows)
    return found


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="One landmark of generated pairs, dragged by both ways.")
    parser.add_argument("landmark", type=int, choices=range(68))
    parser.add_argument("--pairs", type=int, default=31)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    work = partial(single, landmark=options.landmark)
    rows = [row for row in in_processes(work, range(options.pairs), options.workers, "pairs") if row]
    tell(single_figures(rows), options.json)


if __name__ == "__main__":
    main()
