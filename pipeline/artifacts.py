"""Files of a run folder: the only place that writes them.

Every file appears whole or not at all: it is written beside its final name, synced to the disk and renamed. A finished
stage is a folder `<run>/<stage>/<first 16 digits of its key>/`; an optimisation in progress keeps its newest checkpoint
in `<run>/<stage>/<key>.partial/`. Tensors are stored as safetensors, numbers and strings as JSON; nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from data.errors import OutputError
from data.files import file_sha256, sync_folder

STAGE_FILE = "stage.json"
KEY_DIGITS = 16
_TEMPORARY = ".tmp-"


class DamagedFilesError(Exception):
    """Stored files that are incomplete or unreadable; the caller computes them again or says which stage is missing."""


def stage_key(parts: Mapping[str, Any]) -> str:
    """SHA-256 (64 hex digits) of the JSON of everything that decides a stage's output; key order is no part of it."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into one sentence about `path` (OutputError)."""
    try:
        yield
    except OSError as error:
        raise OutputError(_write_failure(path, error)) from error


def _write_failure(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return (
            f"No space is left on the disk of {path}: free some, or choose another folder with out=DIR, and give the "
            "same command again; finished stages and the last checkpoint are kept."
        )
    reason = error.strerror or str(error)
    return f"Cannot write {path} ({reason}): choose a folder that you may write to with out=DIR."


def ensure_folder(path: Path) -> Path:
    """Create a folder and its parents where they are missing; OutputError when that is impossible."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is replaced whole and survives a power cut; OutputError when the disk refuses."""
    temporary = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex[:8]}-{path.name}")
    with writing(path):
        try:
            with temporary.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def _as_json(value: Any, indent: int | None = None) -> bytes:
    """JSON text; of names that are no Unicode, what is none becomes the escapes that JSON has for it."""
    text = json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically; floats that are not finite become null.

    Names that are no Unicode hold lone surrogates, which become the escapes that JSON has for them.
    """
    write_bytes(path, _as_json(value, indent=2) + b"\n")


def append_lines(path: Path, lines: Sequence[str], sync: bool = True) -> None:
    """Append lines to a file that only ever grows, each whole or, at a power cut, torn at its end; OutputError when the
    disk refuses. A torn line of an earlier writer gets its line break first, so that it costs itself only."""
    with writing(path), path.open("ab+") as stream:
        stream.seek(0, os.SEEK_END)
        torn = stream.tell() > 0
        if torn:
            stream.seek(-1, os.SEEK_END)
            torn = stream.read(1) != b"\n"
        stream.write(("\n" * torn + "".join(f"{line}\n" for line in lines)).encode("utf-8", "backslashreplace"))
        stream.flush()
        if sync:
            os.fsync(stream.fileno())


def read_lines(path: Path) -> Iterator[Any]:
    """The values of a file of JSON lines; lines that are no JSON, as a torn one, and a missing file give nothing."""
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return
    with stream:
        for line in stream:
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def read_json(path: Path) -> Any:
    """Read a JSON file; DamagedFilesError when it is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedFilesError(f"{path}: {error}") from error


def copy_file(source: Path, destination: Path) -> None:
    """Copy a finished file to another name in the run folder, replacing the old one whole."""
    with writing(destination):
        content = source.read_bytes()
    write_bytes(destination, content)


def remove_file(path: Path) -> None:
    """Remove a file of an earlier run where there is one."""
    with writing(path):
        path.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """Numbers, strings, lists and dictionaries that strict JSON can hold; paths become text, non-finite floats None."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, Tensor)):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file by name in the order of their names, on the CPU; DamagedFilesError when it is
    missing or incomplete. The library's own order differs from run to run."""
    try:
        return dict(sorted(safetensors.torch.load(path.read_bytes()).items()))
    except (OSError, SafetensorError, ValueError) as error:
        raise DamagedFilesError(f"{path}: {error}") from error


def _tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: _own_copy(tensor) for name, tensor in tensors.items()})


def _own_copy(tensor: Tensor) -> Tensor:
    """Contiguous CPU tensor that shares its memory with no other: safetensors refuses shared memory."""
    return tensor.detach().cpu().contiguous().clone()


class StageWriter:
    """The temporary folder of one stage output, with one method for each kind of file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """Where a writer with a format of its own (photo, video) puts the file `name`."""
        return self.folder / name

    def tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Store tensors by name as a safetensors file."""
        self.bytes(name, _tensor_bytes(tensors))

    def json(self, name: str, value: Any) -> None:
        """Store numbers, strings, lists and dictionaries."""
        self.bytes(name, _as_json(value))

    def bytes(self, name: str, content: bytes) -> None:
        """Store an encoded file."""
        with writing(self.folder / name):
            (self.folder / name).write_bytes(content)


class StageStore:
    """Finished stage outputs and unfinished optimisations of one run folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, stage: str, key: str) -> Path:
        """Folder of the finished output with that key, whether it exists or not."""
        return self.root / stage / key[:KEY_DIGITS]

    def finished(self, stage: str, key: str) -> dict[str, Any] | None:
        """Description written with a finished output, None when there is none.

        Raises DamagedFilesError when a file of it is missing or has another size than was written.
        """
        folder = self.folder(stage, key)
        if not folder.is_dir():
            return None
        description: dict[str, Any] = read_json(folder / STAGE_FILE)
        if description.get("key") != key:
            raise DamagedFilesError(f"{folder} holds another key than its name says")
        for name, size in description["files"].items():
            if not (folder / name).is_file() or (folder / name).stat().st_size != size:
                raise DamagedFilesError(f"{folder / name} is incomplete")
        return description

    @contextlib.contextmanager
    def writer(self, stage: str, key: str, description: Mapping[str, Any]) -> Iterator[StageWriter]:
        """Temporary folder for one output; on leaving it is synced and renamed, on an error it vanishes."""
        folder = self.folder(stage, key)
        ensure_folder(folder.parent)
        temporary = folder.parent / f"{_TEMPORARY}{uuid.uuid4().hex[:8]}-{folder.name}"
        ensure_folder(temporary)
        try:
            with writing(temporary):
                yield StageWriter(temporary)
                files = {file.name: file.stat().st_size for file in sorted(temporary.iterdir())}
            write_json(temporary / STAGE_FILE, {**description, "stage": stage, "key": key, "files": files})
            with writing(folder):
                _sync_files(temporary)
                self._publish(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _publish(self, temporary: Path, folder: Path) -> None:
        old = folder.parent / f"{_TEMPORARY}{uuid.uuid4().hex[:8]}-old"
        if folder.exists():  # computed again on request (resume=false)
            os.rename(folder, old)
        os.rename(temporary, folder)
        sync_folder(folder.parent)
        shutil.rmtree(old, ignore_errors=True)

    def set_aside(self, stage: str, key: str) -> Path:
        """Rename a damaged output so that it is computed again; returns where it lies now."""
        folder = self.folder(stage, key)
        number = 1
        while (aside := folder.with_name(f"{folder.name}.damaged-{number}")).exists():
            number += 1
        with writing(folder):
            os.rename(folder, aside)
        return aside

    def checkpoints(self, stage: str, key: str) -> Checkpoints:
        """Place for the checkpoints of one optimisation."""
        return Checkpoints(self.root / stage / f"{key[:KEY_DIGITS]}.partial", key)

    def remove_leftovers(self) -> None:
        """Delete temporary files that a killed run left behind; only for the holder of the run folder's lock."""
        for pattern in (f"{_TEMPORARY}*", f"*/{_TEMPORARY}*"):
            for leftover in self.root.glob(pattern):
                if leftover.is_dir():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)


def _sync_files(folder: Path) -> None:
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_folder(folder)


def prune_run(root: Path, outputs: Iterable[tuple[str, str]], files: Iterable[str]) -> None:
    """Remove finished outputs of a run folder, given as (stage, key), and files at its top; others' stay.

    Raises OutputError when something cannot be removed.
    """
    store = StageStore(root)
    for stage, key in outputs:
        with writing(store.folder(stage, key)):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(store.folder(stage, key))
            with contextlib.suppress(OSError):  # outputs of other recipes are in it
                (root / stage).rmdir()
    for name in files:
        remove_file(root / name)


class Checkpoints:
    """The newest state of one optimisation: a safetensors file, and a JSON file that names it and is replaced last."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.key = key

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the stored state: nested dictionaries, lists and tuples of tensors, numbers, strings and None."""
        ensure_folder(self.folder)
        tensors: dict[str, Tensor] = {}
        tree = _pack(state, tensors)
        content = _tensor_bytes(tensors)
        name = f"{uuid.uuid4().hex[:16]}.safetensors"
        write_bytes(self.folder / name, content)
        digest = hashlib.sha256(content).hexdigest()
        document = {"key": self.key, "tensors": name, "sha256": digest, "state": tree}
        write_bytes(self.folder / "state.json", json.dumps(document).encode())
        for old in self.folder.glob("*.safetensors"):
            if old.name != name:
                old.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The stored state, None when there is none; DamagedFilesError when it cannot be trusted."""
        if not self.exists():
            return None
        document = read_json(self.folder / "state.json")
        try:
            path = self.folder / Path(document["tensors"]).name
            if document["key"] != self.key or file_sha256(path) != document["sha256"]:
                raise DamagedFilesError(f"{path} is not what state.json describes")
            state: dict[str, Any] = _unpack(document["state"], read_tensors(path))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise DamagedFilesError(f"{self.folder}: {error!r}") from error
        return state

    def exists(self) -> bool:
        """Whether a state is stored, damaged or not."""
        return (self.folder / "state.json").exists()

    def clear(self) -> None:
        """Forget the state: the stage is finished, or its checkpoint is damaged."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON tree of a checkpoint state; tensors and arrays move to `tensors` and leave their name behind."""
    if isinstance(value, (Tensor, np.ndarray)):
        name = f"t{len(tensors)}"
        tensors[name] = value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))
        return {"tensor" if isinstance(value, Tensor) else "array": name}
    if isinstance(value, Mapping):  # pairs, because JSON would turn the integer keys of optimiser states into text
        return {"dict": [[key, _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list" if isinstance(value, list) else "tuple": [_pack(item, tensors) for item in value]}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"A checkpoint state cannot hold {type(value).__name__}")


def _unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy()
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in content}
    items = [_unpack(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
