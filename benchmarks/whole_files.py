"""What of an output folder is visible, whether it is whole, and what it is known by."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from data.files import file_sha256
from pipeline.artifacts import STAGE_FILE, Checkpoints, DamagedFilesError, StageStore, read_json, read_tensors

_STAGE = re.compile(r"[0-9a-f]{16}(\.partial)?")
VOLATILE = ("manifest.json", "report.html", STAGE_FILE)
"""Files that hold times of day or seconds, and so differ from run to run."""


def is_hidden(path: Path) -> bool:
    """Whether a file belongs to nobody yet: it has, or lies in a folder that has, a name that begins with a dot."""
    return any(part.startswith(".") for part in path.parts)


def visible_files(root: Path) -> Iterator[Path]:
    """Every file below a folder that a person or another program would take for one of the run's."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not is_hidden(path.relative_to(root)):
            yield path


def fingerprint(root: Path) -> dict[str, str]:
    """SHA-256 of each visible file by its path in the folder, but for those that hold times: manifests, reports, and a
    batch's own tables and ledger."""
    found = {path.relative_to(root): path for path in visible_files(root)}
    return {
        name.as_posix(): file_sha256(path)
        for name, path in found.items()
        if name.name not in VOLATILE and not any(p == "manifests" or p.startswith("batch_") for p in name.parts)
    }


def faults(root: Path) -> list[str]:
    """What is half-written among the visible files of an output folder: one sentence for each."""
    found = []
    for path in visible_files(root):
        try:
            _read_whole(path)
        except Exception as error:  # noqa: BLE001  whatever a reader says of a file, it is not whole
            found.append(f"{path.relative_to(root)}: {error!r}")
    for folder in sorted({path.parent for path in visible_files(root) if _STAGE.fullmatch(path.parent.name)}):
        found += _stage_faults(folder)
    return found


def _read_whole(path: Path) -> None:
    """Read a file to its end; raises whatever its reader raises when it is cut off."""
    match path.suffix:
        case ".json":
            read_json(path)
        case ".safetensors":
            read_tensors(path)
        case ".npy":
            np.load(path, allow_pickle=False)
        case ".pt":
            torch.load(path, weights_only=True)
        case ".png" | ".jpg" | ".gif":
            with Image.open(path) as picture:
                for frame in range(getattr(picture, "n_frames", 1)):
                    picture.seek(frame)
                    picture.load()
        case ".mp4":
            _read_video(path)
        case ".html":
            if not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
                raise ValueError("it has no end")
        case ".csv" | ".jsonl" | ".txt":
            path.read_text(encoding="utf-8-sig")
        case _:
            raise ValueError("a file of an unknown kind")


def _read_video(path: Path) -> None:
    video = cv2.VideoCapture(str(path))
    count, frames = int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0
    while video.read()[0]:
        frames += 1
    video.release()
    if not frames or frames != count:
        raise ValueError(f"{frames} of {count} frames")


def _stage_faults(folder: Path) -> list[str]:
    """A stage's folder must be finished; that of an optimisation in progress must have no state or a whole one."""
    store, stage = folder.parents[1], folder.parent.name
    try:
        if folder.suffix == ".partial":
            if (folder / "state.json").is_file():
                Checkpoints(folder, read_json(folder / "state.json")["key"]).load()
        elif StageStore(store).finished(stage, read_json(folder / STAGE_FILE)["key"]) is None:
            return [f"{folder} is not finished"]
    except (DamagedFilesError, KeyError) as error:
        return [f"{folder}: {error!r}"]
    return []


def temporary_names(out: Path) -> set[str]:
    """Names of files and folders that are being written at this moment."""
    found = set()
    for folder, folders, files in os.walk(out):
        found |= {f"{folder}/{name}" for name in (*folders, *files) if name.startswith((".tmp-", ".photodrag-"))}
    return found
