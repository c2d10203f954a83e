"""`photodrag models inspect` and `convert`: what a generator file holds, and its way into another format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from data.errors import ModelError, OutputError, UsageError
from data.files import file_sha256
from inversion.encoder import fit_linear_start
from inversion.generators.checkpoint import Checkpoint, open_checkpoint, write_safetensors
from inversion.generators.exports import WeightDelta, read_delta, tuned_state, write_delta, write_rosinality
from inversion.generators.protocol import LatentStats
from inversion.latents import latent_stats
from pipeline.artifacts import StageStore, read_json, read_tensors
from pipeline.errors import EXIT_DONE, one_line
from pipeline.manifest import read_manifest, store_of
from pipeline.models import embedded_generator
from pipeline.outputs import FACTS, TENSORS, stored_factors
from pipeline.zoo import cached_path, entry_path, zoo

FORMATS = {
    "nvidia": "pickle of stylegan2-ada-pytorch or stylegan3",
    "tensorflow": "pickle of StyleGAN2 in TensorFlow",
    "rosinality": "state dict of rosinality's stylegan2-pytorch",
    "module": "network pickled by torch.save (PTI)",
    "state_dict": "state dict under NVIDIA's names",
    "safetensors": "safetensors of photodrag",
}
EMBEDDED_LICENCE = "CC0 1.0; see its model card for the faces it was trained on"
CONVERT_KEYS = ("base", "dtype", "face", "form", "licence", "start")
STATS_SAMPLES = 10_000
DTYPES = {"kept": None, "float32": torch.float32, "float16": torch.float16}
USE = (
    "photodrag models convert SOURCE TARGET.safetensors|TARGET.pt [dtype=kept|float32|float16] [licence=TEXT] "
    "[start=SAMPLES]; "
    "SOURCE is a generator file, or a run folder [face=1] [form=whole|delta], or a delta [base=FILE]"
)


def inspect_model(words: Sequence[str], _offline: bool) -> int:
    """Print what a generator file holds, without building the generator."""
    if len(words) != 1:
        raise UsageError(f"photodrag models inspect is followed by {len(words)} words: allowed is one file or name")
    path = _file_named(words[0])
    delta = read_delta(path) if path.is_file() else None
    rows = _delta_rows(path, delta) if delta is not None else _generator_rows(path)
    for name, text in rows:
        print(f"{name:<16} {text}")
    return EXIT_DONE


def _generator_rows(path: Path) -> list[tuple[str, str]]:
    with open_checkpoint(path) as checkpoint:
        rows = [
            ("file", f"{path} ({path.stat().st_size / 1e6:.1f} MB)"),
            ("sha256", file_sha256(path)),
            ("format", f"{checkpoint.format}: {FORMATS[checkpoint.format]}"),
            ("architecture", architecture_text(checkpoint)),
            ("parameters", f"{checkpoint.parameters:,} numbers, {checkpoint.parameters * 4 / 1e6:.0f} MB as float32"),
            ("latent space", _latent_text(checkpoint.stats)),
            ("licence", _licence(path, checkpoint) or "not in the file: ask where it came from"),
        ]
        if checkpoint.source_sha256:
            rows.append(("embedded source", f"sha256 {checkpoint.source_sha256}; not run"))
        origin = checkpoint.extra.get("source_sha256")
        rows += [("made from", f"{checkpoint.extra.get('source_name')}, sha256 {origin}")] if origin else []
        return rows + [("note", note) for note in checkpoint.notes]


def _latent_text(stats: LatentStats | None) -> str:
    if stats is None:
        return "sampled when a run needs it"
    return "statistics in the file" + ("" if stats.start is None else ", and a linear start for inversions")


def _licence(path: Path, checkpoint: Checkpoint) -> str:
    """The licence in the header, or of the zoo's entry or the embedded generator that this is; empty when unknown."""
    if checkpoint.extra.get("licence"):
        return str(checkpoint.extra["licence"])
    known = {entry_path(entry).resolve(): entry.licence for entry in zoo()}
    embedded = embedded_generator()
    same_size = path.stat().st_size == embedded.stat().st_size
    if same_size and file_sha256(path) == file_sha256(embedded):
        return EMBEDDED_LICENCE
    return known.get(path.resolve(), "")


def _delta_rows(path: Path, delta: WeightDelta) -> list[tuple[str, str]]:
    count = sum(value.numel() for value in delta.factors.values())
    return [
        ("file", f"{path} ({path.stat().st_size / 1e6:.1f} MB)"),
        ("format", "weight delta of photodrag"),
        ("base", f"sha256 {delta.base_sha256}"),
        ("changes", f"{count:,} numbers in {len(delta.factors)} tensors, {len(delta.noise)} noise maps"),
        ("use", f"photodrag models convert {path} WHOLE.safetensors base=FILE"),
    ]


def architecture_text(checkpoint: Checkpoint) -> str:
    """One line on a generator's architecture."""
    config: Any = checkpoint.config
    width = config.width(config.resolution) if hasattr(config, "width") else config.resolution
    kind = checkpoint.family.name
    if kind == "stylegan3":
        kind += " R" if config.use_radial_filters else " T"
    elif hasattr(config, "architecture"):
        kind += f" ({config.architecture})"
    labels = f", {config.c_dim} labels" if config.c_dim else ""
    return f"{kind}, {width} x {config.resolution} px, z {config.z_dim}, w {config.w_dim}{labels}"


def convert_model(words: Sequence[str], _offline: bool) -> int:
    """Write a generator file, a tuned run, or a delta with its base in another format."""
    (source, target), options = _convert_words(words)
    path = _file_named(source)
    try:
        if path.is_dir():
            done = _convert_run(path, target, options)
        elif path.is_file() and (delta := read_delta(path)) is not None:
            done = _convert_delta(delta, target, options)
        else:
            done = _convert_file(path, target, options)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"{target} cannot be written ({one_line(error)}): free some space, or give another name; nothing is left "
            "of it."
        ) from error
    print(f"{target} ({target.stat().st_size / 1e6:.1f} MB): {done}")
    return EXIT_DONE


def _convert_words(words: Sequence[str]) -> tuple[tuple[str, Path], dict[str, str]]:
    options = dict(word.split("=", 1) for word in words if word.split("=", 1)[0] in CONVERT_KEYS and "=" in word)
    names = [word for word in words if not ("=" in word and word.split("=", 1)[0] in CONVERT_KEYS)]
    if len(names) != 2:
        raise UsageError(f"photodrag models convert is followed by {len(names)} files: allowed is {USE}")
    target = Path(names[1])
    if target.suffix not in (".safetensors", ".pt"):
        raise UsageError(
            f"{target} ends in {target.suffix or 'nothing'}: allowed are .safetensors and .pt (rosinality)"
        )
    if target.exists():
        raise UsageError(f"{target} exists already: remove it or give another name")
    if options.get("dtype", "kept") not in DTYPES or options.get("form", "whole") not in ("whole", "delta"):
        raise UsageError(f"An option of photodrag models convert is unknown: allowed is {USE}")
    return (names[0], target), options


def _convert_file(path: Path, target: Path, options: Mapping[str, str]) -> str:
    with open_checkpoint(path) as checkpoint:
        extra = {
            **checkpoint.extra,
            "source_sha256": file_sha256(path),
            "source_name": path.name,
            "source_format": checkpoint.format,
        }
        if licence := _licence(path, checkpoint):
            extra["licence"] = licence
        if checkpoint.source_sha256:
            extra["embedded_source_sha256"] = checkpoint.source_sha256
        state = checkpoint.tensors()
        if "mapping.w_avg" not in state:
            state["mapping.w_avg"] = checkpoint.build().w_avg
        stats = _with_start(checkpoint, target, options["start"]) if "start" in options else checkpoint.stats
        _write(target, checkpoint, state, extra, options, stats)
        return architecture_text(checkpoint)


def _with_start(checkpoint: Checkpoint, target: Path, samples: str) -> LatentStats:
    """The latent statistics with a linear start fitted on that many generated pictures."""
    if not samples.isdecimal() or not 100 <= int(samples) <= 1_000_000 or target.suffix != ".safetensors":
        raise UsageError(f"start is {samples}: allowed is a number from 100 to 1000000, for a .safetensors file")
    generator, rng = checkpoint.build(), torch.Generator().manual_seed(0)
    stats = checkpoint.stats or latent_stats(generator, STATS_SAMPLES, rng)
    return replace(stats, start=fit_linear_start(generator, int(samples), rng))


def _write(
    target: Path,
    checkpoint: Checkpoint,
    state: Mapping[str, torch.Tensor],
    extra: Mapping[str, Any],
    options: Mapping[str, str],
    stats: LatentStats | None,
) -> None:
    dtype = DTYPES[options.get("dtype", "kept")]
    if dtype is not None:
        state = {name: value.to(dtype) for name, value in state.items()}
    if "licence" in options:
        extra = {**extra, "licence": options["licence"]}
    if target.suffix == ".pt":
        write_rosinality(target, checkpoint.config, state)
    else:
        write_safetensors(target, checkpoint.config, state, extra, stats)


def _convert_run(run: Path, target: Path, options: Mapping[str, str]) -> str:
    manifest = read_manifest(run)
    delta = _run_delta(run, manifest, options.get("face", "1"))
    if options.get("form") == "delta":
        if target.suffix != ".safetensors":
            raise UsageError(f"{target} is to hold a delta: allowed is a name that ends in .safetensors")
        write_delta(target, delta)
        return f"{len(delta.factors)} tensors that belong to the generator {delta.base_sha256[:16]}"
    base = Path(options.get("base", manifest["generator"]["path"]))
    return _join(base, delta, target, options)


def _run_delta(run: Path, manifest: Mapping[str, Any], face: str) -> WeightDelta:
    numbers = {str(entry["number"] + 1): entry["keys"] for entry in manifest.get("faces", [])}
    keys = numbers.get(face, {})
    if "tune" not in keys or "invert" not in keys:
        have = ", ".join(sorted(number for number, found in numbers.items() if "tune" in found)) or "none"
        raise UsageError(
            f"{run} has no tuned face {face}: tuned faces are {have}; run the stages invert and tune first"
        )
    store = StageStore(store_of(run, manifest))
    tune, invert = (store.folder(stage, keys[stage]) for stage in ("tune", "invert"))
    tensors, facts = read_tensors(tune / TENSORS), read_json(tune / FACTS)
    noise = {n.removeprefix("noise/"): v for n, v in read_tensors(invert / TENSORS).items() if n.startswith("noise/")}
    return WeightDelta(facts["base_sha256"], stored_factors(tensors), noise, {"run": run.name, "face": face})


def _convert_delta(delta: WeightDelta, target: Path, options: Mapping[str, str]) -> str:
    base = Path(options["base"]) if "base" in options else embedded_generator()
    return _join(base, delta, target, options)


def _join(base: Path, delta: WeightDelta, target: Path, options: Mapping[str, str]) -> str:
    """Write base and delta as one generator."""
    with open_checkpoint(base) as checkpoint:
        found = file_sha256(base)
        if found != delta.base_sha256:
            raise ModelError(
                f"{base} has the sha256 {found[:16]}, but the weights were tuned from {delta.base_sha256[:16]}: "
                "give that file with base=FILE."
            )
        state = tuned_state(dict(checkpoint.build().state_dict()), delta)
        extra = {**checkpoint.extra, **delta.extra, "source_sha256": found, "source_name": base.name, "tuned": True}
        _write(target, checkpoint, state, extra, options, checkpoint.stats)
        return f"{architecture_text(checkpoint)}, tuned"


def _file_named(word: str) -> Path:
    """A file or folder, or the cached file of a zoo entry of that name."""
    path = Path(word)
    return cached_path(word) if not path.exists() and any(word == entry.name for entry in zoo()) else path
