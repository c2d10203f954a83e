"""Losses against steps as charts, drawn by Matplotlib's objects without its global state."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

STAGE_TITLES = {"invert": "Inversion", "tune": "Tuning"}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind readers tell apart."""
SIZE_INCHES = (11.0, 4.2)
DPI = 150
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 11.0,
    "text.usetex": False,
    "axes.unicode_minus": True,
}

History = Mapping[str, Sequence[float]]
"""Losses by name (`loss`, `reconstruction`), one number a step."""


@dataclass(frozen=True, eq=False, slots=True)
class Group:
    """The lines of one colour in an experiment's chart; histories: for each line, losses by stage."""

    label: str
    histories: Sequence[Mapping[str, Sequence[float]]]


def run_curves(histories: Mapping[str, History]) -> bytes:
    """PNG of one face's losses, a panel for each stage (`invert`, `tune`) that `histories` has.

    The whole loss is thin; the part that compares pictures is thick.
    """
    with mpl.rc_context(_STYLE):
        figure, panels = _panels(list(histories))
        for axes, (stage, history) in zip(panels, histories.items(), strict=True):
            _line(axes, history.get("loss", ()), COLOURS[1], 1.0, "whole loss")
            _line(axes, history.get("reconstruction", ()), COLOURS[0], 1.8, "reconstruction (the picture's part)")
            _finish(axes, stage, "loss")
        return _png(figure)


def experiment_curves(groups: Sequence[Group], stages: Sequence[str]) -> bytes:
    """PNG of an experiment's losses: one thin line for each face, and the median of each group bold."""
    with mpl.rc_context(_STYLE):
        figure, panels = _panels(stages)
        for axes, stage in zip(panels, stages, strict=True):
            for number, group in enumerate(groups):
                _group(axes, group, stage, COLOURS[number % len(COLOURS)])
            _finish(axes, stage, "reconstruction loss")
        return _png(figure)


def _group(axes: Axes, group: Group, stage: str, colour: str) -> None:
    lines = [history[stage] for history in group.histories if history.get(stage)]
    for line in lines:
        _line(axes, line, colour, 0.7, None, alpha=0.35)
    label = f"median of {len(lines)}" + (f", {group.label}" if group.label else "")
    _line(axes, median_curve(lines), colour, 2.6, label)


def median_curve(lines: Sequence[Sequence[float]]) -> list[float]:
    """The median at each step over the lines that reach it, as far as at least half of them do."""
    if not lines:
        return []
    length = sorted((len(line) for line in lines), reverse=True)[(len(lines) - 1) // 2]
    return [float(np.median([line[step] for line in lines if len(line) > step])) for step in range(length)]


def _panels(stages: Sequence[str]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, max(1, len(stages)), squeeze=False)
    return figure, list(grid[0])[: len(stages)]


def _line(
    axes: Axes, values: Sequence[float], colour: str, width: float, label: str | None, alpha: float = 1.0
) -> None:
    """One curve over steps from 1; a value that a log scale cannot show leaves a gap."""
    losses = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    losses[~(losses > 0)] = np.nan
    if np.isfinite(losses).any():
        axes.plot(np.arange(1, len(losses) + 1), losses, color=colour, linewidth=width, label=label, alpha=alpha)


def _finish(axes: Axes, stage: str, what: str) -> None:
    axes.set_title(STAGE_TITLES.get(stage, stage))
    axes.set_xlabel("step")
    axes.set_ylabel(f"{what} (no unit, log scale)")
    if not axes.lines:
        axes.text(0.5, 0.5, "no steps", transform=axes.transAxes, ha="center", va="center")
        return
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, which="both", color="#d9d9d9", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=True, framealpha=0.9, edgecolor="none", loc="upper right")


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script that the font lacks
        figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
