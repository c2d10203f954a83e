"""Folders of aligned face pictures, for training and benchmarks."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np

from data.errors import UsageError

IMAGE_SUFFIXES = (".webp", ".png", ".jpg", ".jpeg")


def list_faces(folder: Path, split: str | None) -> list[Path]:
    """Pictures of a folder: those of `split` in its MANIFEST.csv (columns file, split), or all when it has none."""
    manifest = folder / "MANIFEST.csv"
    if manifest.is_file():
        with manifest.open(newline="", encoding="utf-8") as handle:
            rows = [row for row in csv.DictReader(handle) if split is None or row["split"] == split]
        return [folder / row["file"] for row in rows]
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)


def load_face(path: Path, size_px: int) -> np.ndarray:
    """One picture as uint8 RGB [size, size, 3], resized by area when larger and by Lanczos when smaller."""
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise UsageError(f"{path} is not a picture that can be read.")
    method = cv2.INTER_AREA if pixels.shape[0] >= size_px else cv2.INTER_LANCZOS4
    if pixels.shape[:2] != (size_px, size_px):
        pixels = cv2.resize(pixels, (size_px, size_px), interpolation=method)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def load_faces(folder: Path, size_px: int, split: str | None = None) -> np.ndarray:
    """All pictures of a folder (or of one split of its manifest) as uint8 RGB [N, size, size, 3]."""
    paths = list_faces(folder, split)
    if not paths:
        wanted = f" of split '{split}'" if split else ""
        raise UsageError(f"{folder} holds no pictures{wanted}: give a folder of aligned face pictures.")
    return np.stack([load_face(path, size_px) for path in paths])
