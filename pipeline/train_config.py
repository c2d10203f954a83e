"""The typed settings of the trainer, their defaults and ranges; `conf/train.yaml` shows them with a comment each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from data.errors import UsageError
from pipeline.composing import Source, compose_tree, load_tree
from pipeline.quoting import looks_like_override, quote_path, split_override
from pipeline.validation import check_fields, knob

PATH_KEYS = ("faces", "out", "grow_from")
"""The settings whose value is a path, taken as it stands; only the bare word null keeps its meaning there."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shape of the generator: `channel_base / r` channels at r px, at most `channel_max`."""

    KEY: ClassVar[str] = "model"
    z_dim: int = knob(128, 1, 1024)
    w_dim: int = knob(256, 1, 1024)
    mapping_layers: int = knob(2, 1, 16)
    channel_base: int = knob(4096, 128, 2**20)
    channel_max: int = knob(256, 1, 4096)

    def __post_init__(self) -> None:
        check_fields(self, self.KEY)


@dataclass(frozen=True, slots=True)
class GameConfig:
    """Rates and weights of the adversarial game (see `inversion.training.step.GanSettings`)."""

    KEY: ClassVar[str] = "game"
    lr_generator: float = knob(3e-3, above=0, high=1)
    lr_discriminator: float = knob(1e-3, above=0, high=1)
    pixel_weight: float = knob(2.0, 0)
    r1_weight: float = knob(0.0, 0)
    r1_every: int = knob(8, 1, 1000)
    spread_weight: float = knob(1.0, 0)
    spectrum_weight: float = knob(20.0, 0)
    anchor_weight: float = knob(150.0, 0)
    anchor_components: int = knob(64, 1, 768)
    warmup_images: int = knob(20_000, 0)
    lr_warmup: float = knob(1.5e-2, above=0, high=1)
    mixing_share: float = knob(0.0, 0, 1)
    decay_from: int = knob(0, 0)
    ema_images: float = knob(5000.0, above=0)
    noise_limit: float = knob(0.0, 0, 1)

    def __post_init__(self) -> None:
        check_fields(self, self.KEY)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """What to train, on what, for how long; paths are as the user gave them."""

    KEY: ClassVar[str] = ""
    faces: str | None = knob(None, path=True)
    out: str | None = knob(None, path=True)
    resolution: int = knob(128, 16, 1024)
    grow_from: str | None = knob(None, path=True)
    images: int = knob(1_000_000, 1)
    batch: int = knob(16, 2, 1024)
    seed: int = knob(0, 0, 2**32 - 1)
    device: str = knob("auto", choices=("auto", "cpu", "cuda"))
    threads: int = knob(0, 0, 1024)
    precision: str = knob("auto", choices=("auto", "fp32", "bf16"))
    save_every_s: float = knob(300.0, 0)
    report_every: int = knob(8000, 1)
    report_samples: int = knob(500, 24, 100_000)
    file_mb: int = knob(0, 0, 1_000_000)
    model: ModelConfig = field(default_factory=ModelConfig)
    game: GameConfig = field(default_factory=GameConfig)

    def __post_init__(self) -> None:
        check_fields(self, self.KEY)
        if self.resolution.bit_count() != 1:
            raise UsageError(f"resolution is {self.resolution}: allowed are the powers of two from 16 to 1024")
        if self.model.channel_base < self.resolution:
            raise UsageError(
                f"model.channel_base is {self.model.channel_base}: allowed is at least resolution ({self.resolution}), "
                "or the finest block has no channel"
            )
        if self.game.decay_from >= self.images:
            raise UsageError(
                f"game.decay_from is {self.game.decay_from}: allowed is a count below images ({self.images}), or 0"
            )


SOURCE = Source("train", TrainConfig, listing="conf/train.yaml", groups=False, sweeps=False)
"""`conf/train.yaml` and its types."""


def compose_training(words: Sequence[str]) -> TrainConfig:
    """The checked settings that words of the shape key=value give; UsageError tells of the first wrong one."""
    return load_tree(SOURCE, compose_tree(SOURCE, [_prepare(word) for word in words]))


def check_trainable(config: TrainConfig) -> tuple[Path, Path]:
    """The folders (faces, out); UsageError when one is not given, or when a path that is read is not there."""
    if config.faces is None:
        raise UsageError("faces is null: give faces=FOLDER, a folder of aligned face pictures")
    if config.out is None:
        raise UsageError("out is null: give out=FOLDER, where state, samples, log and generator are written")
    if not Path(config.faces).is_dir():
        raise UsageError(f"faces is {config.faces}, which is no folder: allowed is a folder of aligned face pictures")
    if Path(config.out).exists() and not Path(config.out).is_dir():
        raise UsageError(f"out is {config.out}, which is no folder: allowed is a folder, which may be new")
    if config.grow_from is not None and not Path(config.grow_from).is_file():
        raise UsageError(f"grow_from is {config.grow_from}, which does not exist: allowed is a generator file")
    return Path(config.faces), Path(config.out)


def _prepare(word: str) -> str:
    """A word in Hydra's grammar: the path of a path setting is quoted, a leading `~/` in it is the home folder."""
    if not looks_like_override(word):
        return word
    prefix, key, value = split_override(word)
    if key not in PATH_KEYS or prefix == "~" or value == "null":
        return word
    return f"{prefix}{key}={quote_path(os.path.expanduser(value) if value.startswith('~/') else value)}"
