"""An inverted latent as files that other programs read: NumPy, torch and safetensors."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.torch
import torch

from inversion.projector import Inversion
from pipeline.folders import shown

LATENT = "latent"
SUFFIXES = (".npy", ".pt", ".safetensors")
NOISE_PREFIX = "noise/"


def latent_files(inversion: Inversion, metadata: Mapping[str, str]) -> dict[str, bytes]:
    """The same latent three times, by suffix; `metadata` (generator_sha256, photo_sha256, ...) goes into the last two.

    .npy: w [L, D] float32. .pt: a dictionary for torch.load(weights_only=True) with "w" [L, D], "noise" (a dictionary
    of the maps [r, r] by layer name) and "metadata". .safetensors: "w", "noise/<layer>" and the metadata in its header.
    """
    w = inversion.w[0].detach().float().cpu().contiguous().clone()
    found = sorted(inversion.noise.items())  # the same run must give the same bytes
    noise = {name: value.detach().float().cpu().contiguous().clone() for name, value in found}
    named = {"w": w, **{NOISE_PREFIX + name: value for name, value in noise.items()}}
    return {
        ".npy": _numpy_bytes(w.numpy()),
        ".pt": _torch_bytes({"w": w, "noise": noise, "metadata": dict(metadata)}),
        ".safetensors": _steady(safetensors.torch.save(named, dict(metadata))),
    }


def latent_metadata(manifest: Mapping[str, Any], face: int) -> dict[str, str]:
    """What a latent's files say about their origin: generator, photo, face (from 1), space and version."""
    hashes, config = manifest["hashes"], manifest["config"]
    photo = manifest["photo"] or {}
    return {
        "generator_sha256": str(hashes["generator"]),
        "generator": shown(str(manifest["generator"]["path"]).replace("\\", "/").rsplit("/", 1)[-1]),
        "photo_sha256": str(hashes["photo"]),
        "photo": shown(str(photo.get("name"))),
        "face": str(face + 1),
        "space": str(config["invert"]["space"]),
        "seed": str(manifest["seeds"]["seed"]),
        "photodrag": str(manifest["versions"]["photodrag"]),
    }


def _numpy_bytes(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=False)
    return stream.getvalue()


def _torch_bytes(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def _steady(content: bytes) -> bytes:
    """The same safetensors file with its metadata in the order of their names; the library's differs from run to run,
    and the same run must give the same bytes."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text + content[end:]
