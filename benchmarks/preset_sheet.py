"""Every preset on one photo, as a labelled grid: the photo's face, then what each preset made of it.

    python benchmarks/preset_sheet.py PHOTO --sheet FILE.jpg [--runs FOLDER] [WORD=VALUE ...]

The photo is run with each preset at strength 1; what is inverted and tuned once serves them all, also in a runs folder
that holds it already. WORD=VALUE are settings of the run, as align=precropped. Each tile is the face's crop of the
blended photo.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

import numpy as np

from data.alignment import crop_photo
from data.photo import read_photo
from editing.presets import PRESETS
from pipeline import stages
from pipeline.models import Models
from pipeline.montage import GAP_PX, LABEL_PX, MARGIN_PX, PAPER, tile, written
from pipeline.pictures import jpeg_bytes
from pipeline.progress import Console
from pipeline.quoting import quote_path
from pipeline.run import run
from pipeline.schema import compose

COLUMNS = 4
TILE_PX = 224
QUALITY = 85
NAMES = tuple({preset: name for name, preset in reversed(PRESETS.items())}.values())[::-1]
"""The presets, each under the first of its names."""

Tile = tuple[str, np.ndarray]
"""A label and a picture [R, R, 3] uint8 RGB."""


def preset_tiles(photo: Path, runs: Path, words: Sequence[str]) -> list[Tile]:
    """The photo's face, and its largest face after each preset."""
    models, tiles = Models(), list[Tile]()
    for preset in NAMES:
        config = compose([f"photo={quote_path(str(photo))}", f"out={quote_path(str(runs))}", f"edit={preset}", *words])
        if not tiles:
            original = read_photo(photo)
            alignment = stages.align(original, config.align, TILE_PX).crops[0].alignment
            tiles.append(("photo", to_u8(crop_photo(original.pixels, alignment).image)))
        outcome = run(config, models=models, console=Console(False))
        edited = read_photo(outcome.results[0])
        tiles.append((preset, to_u8(crop_photo(edited.pixels, alignment).image)))
    return tiles


def to_u8(image: np.ndarray) -> np.ndarray:
    """A crop's image [1, 3, R, R] in [-1, 1] as [R, R, 3] uint8."""
    return np.rint(np.clip((image[0].transpose(1, 2, 0) + 1) * 127.5, 0, 255)).astype(np.uint8)


def preset_sheet(tiles: Sequence[Tile]) -> np.ndarray:
    """The grid [H, W, 3] uint8, each label above its picture."""
    rows = -(-len(tiles) // COLUMNS)
    across, down = TILE_PX + GAP_PX, LABEL_PX + TILE_PX + GAP_PX
    shape = (2 * MARGIN_PX + rows * down - GAP_PX, 2 * MARGIN_PX + COLUMNS * across - GAP_PX, 3)
    canvas, texts = np.full(shape, PAPER, np.uint8), []
    for number, (words, picture) in enumerate(tiles):
        left, top = MARGIN_PX + number % COLUMNS * across, MARGIN_PX + number // COLUMNS * down
        texts.append((words, left, top + 4))
        top += LABEL_PX
        canvas[top : top + TILE_PX, left : left + TILE_PX] = tile(picture, side_px=TILE_PX)
    return written(canvas, texts)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--sheet", type=Path, required=True, help="the JPEG file to write")
    parser.add_argument("--runs", type=Path, default=Path("photodrag_runs"), help="folder of the run's folder")
    parser.add_argument("words", nargs="*", metavar="WORD=VALUE", help="settings of the run")
    options = parser.parse_args()
    sheet = preset_sheet(preset_tiles(options.photo, options.runs, options.words))
    options.sheet.write_bytes(jpeg_bytes(sheet, quality=QUALITY))


if __name__ == "__main__":
    main()
