"""One edit after another carried back in several ways, the face at 100 %: photo, ours, difference, pasted crop.

    python benchmarks/blend_sheet.py PHOTO --sheet FILE.jpg [--presets smile,open_mouth,turn_left] [--runs FOLDER]
        [WORD=VALUE ...]

Every tile shows the photo's own pixels round the middle of the face, not resampled. Runs are those of
benchmarks/preset_sheet.py: what is inverted, tuned and dragged once serves all ways.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

import numpy as np

from benchmarks.preset_sheet import QUALITY, TILE_PX, Tile, preset_sheet
from data.photo import read_photo
from pipeline import stages
from pipeline.models import Models
from pipeline.pictures import jpeg_bytes
from pipeline.progress import Console
from pipeline.quoting import quote_path
from pipeline.run import run
from pipeline.schema import compose

WAYS = {"flow": "carried along", "difference": "difference", "crop": "pasted crop"}


def way_tiles(photo: Path, runs: Path, presets: Sequence[str], words: Sequence[str]) -> list[Tile]:
    """A row for each preset: the photo's face, then the same pixels of each way's result."""
    models, tiles = Models(), list[Tile]()
    common = [f"photo={quote_path(str(photo))}", f"out={quote_path(str(runs))}", *words]
    original = read_photo(photo)
    centre = (
        stages.align(original, compose([*common, "edit=smile"]).align, TILE_PX).crops[0].alignment.quad.mean(axis=0)
    )
    left, top = np.clip(np.rint(centre - TILE_PX / 2).astype(int), 0, None)
    part = np.s_[top : top + TILE_PX, left : left + TILE_PX]
    for preset in presets:
        tiles.append(("photo", original.to_u8()[part]))
        for way, label in WAYS.items():
            outcome = run(compose([*common, f"edit={preset}", f"blend={way}"]), models=models, console=Console(False))
            tiles.append((f"{preset}, {label}", read_photo(outcome.results[0]).to_u8()[part]))
    return tiles


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--sheet", type=Path, required=True, help="the JPEG file to write")
    parser.add_argument("--presets", default="smile,open_mouth,turn_left", help="names with commas between them")
    parser.add_argument("--runs", type=Path, default=Path("photodrag_runs"), help="folder of the run's folder")
    parser.add_argument("words", nargs="*", metavar="WORD=VALUE", help="settings of the run")
    options = parser.parse_args()
    tiles = way_tiles(options.photo, options.runs, options.presets.split(","), options.words)
    options.sheet.write_bytes(jpeg_bytes(preset_sheet(tiles), quality=QUALITY))


if __name__ == "__main__":
    main()
