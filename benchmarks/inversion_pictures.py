"""Pictures of the inversion benchmark: quality over time, and faces beside their reconstructions and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from benchmarks.courses import Outcome
from data.faces import load_face

COLORS = {"pti": "#d55e00", "ours": "#0072b2"}
LABELS = {"pti": "PTI as published", "ours": "photodrag"}
SECONDS = np.geomspace(2.0, 400.0, 120)
ERROR_SCALE = 4.0
TILE_PX, GAP_PX, TITLE_PX = 192, 6, 28


def draw_curves(path: Path, faces: Sequence[Mapping[str, Outcome]]) -> None:
    """PSNR and feature distance over processor seconds: each face thin, the median thick."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    for axis, key, title in zip(
        axes, ("psnr_db", "feature_distance"), ("PSNR [dB]", "face-feature distance"), strict=True
    ):
        for method, color in COLORS.items():
            rows = [[getattr(point, key) for point in face[method].points] for face in faces]
            times = [[point.seconds for point in face[method].points] for face in faces]
            for seconds, values in zip(times, rows, strict=True):
                axis.plot(seconds, values, color=color, alpha=0.15, linewidth=0.8)
            axis.plot(SECONDS, median_curve(times, rows), color=color, linewidth=2.5, label=LABELS[method])
        axis.set(xscale="log", xlabel="processor seconds, one thread", ylabel=title)
        axis.grid(alpha=0.3, which="both")
    axes[1].set_yscale("log")
    axes[0].legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def median_curve(times: Sequence[Sequence[float]], rows: Sequence[Sequence[float]]) -> np.ndarray:
    """Median over the faces at SECONDS; nothing where a face has not begun, its last value after it has ended."""
    curves = [np.interp(SECONDS, seconds, values, left=np.nan) for seconds, values in zip(times, rows, strict=True)]
    stacked = np.stack(curves)
    longest = float(np.median([seconds[-1] for seconds in times]))
    median = np.median(stacked, axis=0)
    median[longest < SECONDS] = np.nan
    return np.asarray(median)


def draw_faces(path: Path, photos: Sequence[Path], pictures: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Rows of photo, PTI, ours, and the error maps of both, which show the absolute error times ERROR_SCALE."""
    titles = ("photo", LABELS["pti"], LABELS["ours"], f"error x{ERROR_SCALE:g}, PTI", f"error x{ERROR_SCALE:g}, ours")
    rows = [title_row(titles)]
    for photo, found in zip(photos, pictures, strict=True):
        original = load_face(photo, found["ours"].shape[0])
        tiles = [original, found["pti"], found["ours"], error_map(original, found["pti"])]
        tiles.append(error_map(original, found["ours"]))
        large = [cv2.resize(tile, (TILE_PX, TILE_PX), interpolation=cv2.INTER_CUBIC) for tile in tiles]
        rows.append(joined([np.asarray(tile) for tile in large], axis=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), joined(rows, axis=0)[..., ::-1])


def error_map(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Absolute difference [R, R, 3] uint8, the largest over the colours, times ERROR_SCALE, as a heat map."""
    difference = np.abs(first.astype(np.float32) - second.astype(np.float32)).max(axis=2) * ERROR_SCALE
    heat = cv2.applyColorMap(difference.clip(0, 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return np.asarray(heat[..., ::-1])


def title_row(titles: Sequence[str]) -> np.ndarray:
    """The columns' names over their columns."""
    cells = []
    for title in titles:
        cell = np.full((TITLE_PX, TILE_PX, 3), 255, np.uint8)
        cv2.putText(cell, title, (4, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        cells.append(cell)
    return joined(cells, axis=1)


def joined(parts: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Pictures beside (axis 1) or below (axis 0) each other, a white gap between them."""
    spaced: list[np.ndarray] = []
    for part in parts:
        shape = (part.shape[0], GAP_PX, 3) if axis == 1 else (GAP_PX, part.shape[1], 3)
        spaced += [part, np.full(shape, 255, np.uint8)]
    return np.concatenate(spaced[:-1], axis=axis)
