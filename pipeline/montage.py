"""Sheets of an experiment's pictures: photo, pivot, tuned, and where the last differs from the photo."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

TILE_PX = 256
GAP_PX = 8
LABEL_PX = 30
HEAD_PX = 34
FOOT_PX = 64
ROWS_A_SHEET = 30
ERROR_MAX_LEVELS = 64
"""The difference at which the error map's colours end; larger ones have the colour of this one."""
COLUMNS = ("Photo", "Inverted (pivot)", "Tuned", "Difference to the photo")
MARGIN_PX = 12
_INK = (28, 30, 33)
PAPER = 255
_BLANK = 235


@dataclass(frozen=True, eq=False, slots=True)
class MontageRow:
    """One row: its label and pictures [R, R, 3] uint8 RGB of one size; `tuned` is None of a run that ended earlier."""

    label: str
    photo: np.ndarray
    pivot: np.ndarray
    tuned: np.ndarray | None


def montage_sheets(rows: Sequence[MontageRow]) -> list[np.ndarray]:
    """Pictures [H, W, 3] uint8 of at most `ROWS_A_SHEET` rows each, in order."""
    return [_sheet(rows[start : start + ROWS_A_SHEET]) for start in range(0, len(rows), ROWS_A_SHEET)]


def sheet_shape(rows: int) -> tuple[int, int, int]:
    """[H, W, 3] of a sheet with that many rows."""
    width = 2 * MARGIN_PX + len(COLUMNS) * TILE_PX + (len(COLUMNS) - 1) * GAP_PX
    return HEAD_PX + rows * (LABEL_PX + TILE_PX + GAP_PX) + FOOT_PX, width, 3


def error_levels(photo: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """[R, R] float32: mean over red, green and blue of the absolute difference, in levels of 0 to 255."""
    difference = np.abs(photo.astype(np.int16) - picture.astype(np.int16))
    return np.asarray(difference.mean(axis=2), dtype=np.float32)


def error_colours(levels: np.ndarray) -> np.ndarray:
    """[..., 3] uint8 RGB of levels [...]: 0 is black, `ERROR_MAX_LEVELS` and above pale yellow (magma)."""
    scaled = np.rint(np.clip(levels / ERROR_MAX_LEVELS, 0, 1) * 255).astype(np.uint8)
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_MAGMA)[:, 0, ::-1]
    return np.ascontiguousarray(table[scaled])


def _sheet(rows: Sequence[MontageRow]) -> np.ndarray:
    canvas = np.full(sheet_shape(len(rows)), PAPER, np.uint8)
    texts = [(name, _left(column), 8) for column, name in enumerate(COLUMNS)]
    top = HEAD_PX
    for row in rows:
        texts.append((row.label, MARGIN_PX, top + 6))
        for column, tile in enumerate(_tiles(row)):
            left = _left(column)
            canvas[top + LABEL_PX : top + LABEL_PX + TILE_PX, left : left + TILE_PX] = tile
        top += LABEL_PX + TILE_PX + GAP_PX
    texts += _colour_bar(canvas, top + 10)
    return written(canvas, texts)


def _left(column: int) -> int:
    return MARGIN_PX + column * (TILE_PX + GAP_PX)


def _tiles(row: MontageRow) -> list[np.ndarray]:
    last = row.pivot if row.tuned is None else row.tuned
    blank = np.full((TILE_PX, TILE_PX, 3), _BLANK, np.uint8)
    tuned = blank if row.tuned is None else tile(row.tuned)
    errors = tile(error_colours(error_levels(row.photo, last)), cv2.INTER_NEAREST)
    return [tile(row.photo), tile(row.pivot), tuned, errors]


def tile(picture: np.ndarray, enlarge: int = cv2.INTER_CUBIC, side_px: int = TILE_PX) -> np.ndarray:
    """A picture [R, R, 3] uint8 at the side of a sheet's tiles."""
    if picture.shape[:2] == (side_px, side_px):
        return picture
    how = cv2.INTER_AREA if picture.shape[0] > side_px else enlarge
    return np.asarray(cv2.resize(picture, (side_px, side_px), interpolation=how))


def _colour_bar(canvas: np.ndarray, top: int) -> list[tuple[str, int, int]]:
    """Draw the error map's scale below its column; returns its texts."""
    left = _left(len(COLUMNS) - 1)
    levels = np.linspace(0, ERROR_MAX_LEVELS, TILE_PX, dtype=np.float32)
    canvas[top : top + 14, left : left + TILE_PX] = error_colours(levels)
    words = "Scale of the difference: mean of |R|, |G| and |B| in levels of 0 to 255"
    ends = [("0", left, top + 18), (f"{ERROR_MAX_LEVELS // 2}", left + TILE_PX // 2 - 8, top + 18)]
    return [(words, _left(0), top - 2), *ends, (f"{ERROR_MAX_LEVELS}+", left + TILE_PX - 36, top + 18)]


def written(canvas: np.ndarray, texts: Sequence[tuple[str, int, int]]) -> np.ndarray:
    """The canvas with texts (words, left, top); words too long for the width lose their middle."""
    font_file = str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
    font, known = ImageFont.truetype(font_file, 16), FT2Font(font_file).get_charmap()
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    for words, left, top in texts:
        room = canvas.shape[1] - left - MARGIN_PX
        pen.text((left, top), _fitted(_drawable(words, known), font, room), font=font, fill=_INK)
    return np.asarray(picture)


def _drawable(words: str, known: Collection[int]) -> str:
    """Words with an escape, such as \\u65e5, for each letter that the font cannot draw."""
    return "".join(
        letter if ord(letter) in known and letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in words
    )


def _fitted(words: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """Words shortened in the middle until they fit into `room` pixels."""
    kept = len(words)
    fitted = words
    while font.getlength(fitted) > room and kept > 2:
        kept -= 1
        fitted = f"{words[: (kept + 1) // 2]}…{words[len(words) - kept // 2 :]}"
    return fitted
