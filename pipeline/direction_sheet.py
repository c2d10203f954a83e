"""`photodrag directions`: a sheet of the generator's own directions, to choose one for `edit=direction`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from data.errors import UsageError
from editing.directions import KINDS, Direction, directions_of, drawn, moved, parse_layers
from inversion.generators.protocol import Generator, NoiseMaps, Styled
from inversion.pivotal import apply_delta
from pipeline import stages
from pipeline.artifacts import StageStore, ensure_folder, write_bytes
from pipeline.engine import Engine, MissingStageError, StageSpec, Stored
from pipeline.errors import EXIT_DONE
from pipeline.manifest import read_manifest
from pipeline.models import Models
from pipeline.montage import GAP_PX, HEAD_PX, MARGIN_PX, PAPER, tile, written
from pipeline.outputs import INVERT, SAMPLE, tune_spec
from pipeline.pictures import png_bytes
from pipeline.progress import Console
from pipeline.quoting import looks_like_override, prepare_override, split_override
from pipeline.run import open_setup, run_folder
from pipeline.schema import RunConfig, compose
from pipeline.validation import did_you_mean
from pipeline.work import Setup

SHEET = "directions.png"
AMOUNTS = (-3.0, -1.5, 0.0, 1.5, 3.0)
"""The columns, in standard deviations."""
TILE_PX = 160
LABEL_WIDTH_PX = 76
OWN_WORDS = {"count": "8", "face": "1", "kind": "both"}
"""What the command takes beside a run's settings, with its defaults."""
MAX_COUNT = 64
USE = (
    "photodrag directions [from=RUN [face=1]] [count=8] [kind=both|pca|sefa] [edit.direction_layers=all] "
    "[sample.seed=0] [generator=NAME]"
)


@dataclass(frozen=True, eq=False, slots=True)
class DirectionRow:
    """One row of a sheet: its direction and a picture [R, R, 3] uint8 RGB for each of `AMOUNTS`."""

    direction: Direction
    pictures: Sequence[np.ndarray]


@dataclass(frozen=True, eq=False, slots=True)
class Start:
    """What the directions begin at: what draws it, and its latent [1, L, D]."""

    generator: Generator
    w: Tensor
    noise: NoiseMaps | None


def directions(words: Sequence[str]) -> int:
    """Run `photodrag directions` followed by `words`: draw the sheet, say where it is and how to use one of its rows.

    The face is that of a run (`from=RUN`), as it was inverted and tuned, or a generated one (`sample.seed`).
    """
    own, config = read_words(words)
    earlier = None if config.from_run is None else read_manifest(Path(config.from_run))
    setup = open_setup(config, earlier, None, Models())
    start = _start(setup, int(own["face"]) - 1)
    kinds = KINDS if own["kind"] == "both" else tuple(kind for kind in KINDS if kind == own["kind"])
    rows = direction_rows(start, config.edit.direction_layers, kinds, int(own["count"]))
    path = _sheet_path(setup)
    ensure_folder(path.parent)
    write_bytes(path, png_bytes(direction_sheet(rows)))
    print(f"sheet: {path}")
    print(f"use:   {_use(setup, rows[min(2, int(own['count']) - 1, len(rows) - 1)].direction)}")
    return EXIT_DONE


def read_words(words: Sequence[str]) -> tuple[dict[str, str], RunConfig]:
    """The command's own options, all of them, and the config of the other words; UsageError for what is neither."""
    own, overrides = dict(OWN_WORDS), []
    for word in words:
        key = split_override(word)[1]
        if not looks_like_override(word):
            raise UsageError(f"photodrag directions is followed by {word}: allowed is {USE}{did_you_mean(word, own)}")
        if key in own:
            own[key] = split_override(word)[2]
        elif key in ("stages", "photo"):
            raise UsageError(f"photodrag directions takes no {key}: allowed is {USE}")
        else:
            overrides.append(prepare_override(word))
    for key, high in (("count", MAX_COUNT), ("face", 99)):
        if not own[key].isdecimal() or not 1 <= int(own[key]) <= high:
            raise UsageError(f"{key} is {own[key]}: allowed is a whole number from 1 to {high}")
    if own["kind"] not in ("both", *KINDS):
        raise UsageError(f"kind is {own['kind']}: allowed are both, {', '.join(KINDS)}")
    continued = any(split_override(text)[1] == "from_run" for text in overrides)
    return own, compose([*overrides, "stages=[edit]" if continued else "stages=[sample,edit]"])


def direction_rows(start: Start, layers_text: str, kinds: Sequence[str], count: int) -> list[DirectionRow]:
    """Rows of the first `count` directions of each kind; a generator without style weights has no sefa directions."""
    layers = parse_layers(start.generator, layers_text)
    rows = []
    for kind in KINDS:
        if kind not in kinds or (kind == "sefa" and len(kinds) > 1 and not isinstance(start.generator, Styled)):
            continue
        found = directions_of(start.generator, kind, layers, start.w)[:count]
        for number, direction in enumerate(found):
            ws = moved(start.w, direction, AMOUNTS, layers)
            rows.append(DirectionRow(Direction(kind, number), drawn(start.generator, ws, start.noise)))
    return rows


def direction_sheet(rows: Sequence[DirectionRow]) -> np.ndarray:
    """The sheet [H, W, 3] uint8: a row for each direction behind its name, a column for each of `AMOUNTS`."""
    canvas = np.full(sheet_shape(len(rows)), PAPER, np.uint8)
    texts = [(_amount(amount), _left(column), 8) for column, amount in enumerate(AMOUNTS)]
    for number, row in enumerate(rows):
        top = HEAD_PX + number * (TILE_PX + GAP_PX)
        texts.append((str(row.direction), MARGIN_PX, top + TILE_PX // 2 - 10))
        for column, picture in enumerate(row.pictures):
            left = _left(column)
            canvas[top : top + TILE_PX, left : left + TILE_PX] = tile(picture, side_px=TILE_PX)
    return written(canvas, texts)


def sheet_shape(rows: int) -> tuple[int, int, int]:
    """[H, W, 3] of a sheet with that many rows."""
    return HEAD_PX + rows * (TILE_PX + GAP_PX), _left(len(AMOUNTS)) - GAP_PX + MARGIN_PX, 3


def _left(column: int) -> int:
    return MARGIN_PX + LABEL_WIDTH_PX + column * (TILE_PX + GAP_PX)


def _amount(amount: float) -> str:
    return f"{amount:+g} std" if amount else "start"


def _start(setup: Setup, face: int) -> Start:
    """The face of the run that is continued, tuned where it was tuned, or a generated one."""
    base, device, earlier = setup.generator.module, setup.device, setup.earlier
    if earlier is None:
        return Start(base, stages.sample(base, setup.config.sample, device).w, None)
    try:
        if setup.sampled:
            sampled = _stored(setup, SAMPLE, setup.known_key("sample")).value
            return Start(base, sampled.w.to(device), None)
        inversion = _stored(setup, INVERT, setup.known_key("invert", face)).value.inversion
        tuned_key = setup.known_key("tune", face)
        if tuned_key is not None:
            delta = _stored(setup, tune_spec(inversion, base), tuned_key).value.tuned.delta
            base = apply_delta(base, delta)
    except MissingStageError as error:
        raise UsageError(
            f"The run {setup.config.from_run} has no finished {error.stage} stage of face {face + 1}, where directions "
            "begin: give another face=NUMBER, or run the photo again"
        ) from error
    inversion = stages.inversion_on(inversion, device)
    return Start(base, inversion.w, inversion.noise)


def _stored(setup: Setup, spec: StageSpec[Any, Any], key: str | None) -> Stored[Any]:
    """What a finished stage of the continued run left."""
    if key is None:
        raise MissingStageError(spec.name)
    engine = Engine(StageStore(run_folder(setup)), Console(False), (), resume=True, on_record=lambda _: None)
    stored = engine.find(spec, key)
    if stored is None:
        raise MissingStageError(spec.name)
    return stored


def _sheet_path(setup: Setup) -> Path:
    """In the continued run's folder, or beside the run folders; the name tells what the sheet shows."""
    config = setup.config
    if config.from_run is not None:
        return Path(config.from_run).absolute() / SHEET
    name = f"directions_{config.sample.seed}_{setup.generator.sha256[:8]}.png"
    return Path(config.out).absolute() / name


def _use(setup: Setup, direction: Direction) -> str:
    """A command that edits along one of the rows."""
    config = setup.config
    if setup.earlier is not None:
        wanted = "stages=[edit]" if setup.sampled else "'stages=[edit,blend]'"
        begin = f"photodrag from={shlex.quote(str(config.from_run))} {wanted}"
    elif config.generator.path is not None:
        begin = f"photodrag me.jpg generator.path={shlex.quote(config.generator.path)}"
    else:
        name = config.generator.name
        begin = "photodrag me.jpg" if name == "embedded" else f"photodrag me.jpg generator={name}"
    layers = config.edit.direction_layers
    end = "" if layers == "all" else f" edit.direction_layers={layers}"
    return f"{begin} edit=direction edit.direction={direction} edit.strength=1.5{end}"
