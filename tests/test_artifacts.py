"""Run files: atomic writing, the stage store and checkpoints."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import artifacts
from pipeline.artifacts import (
    Checkpoints,
    DamagedFilesError,
    OutputError,
    StageStore,
    copy_file,
    plain,
    read_json,
    read_tensors,
    stage_key,
    write_bytes,
    write_json,
)


def _full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_key_ignores_order_and_sees_every_value() -> None:
    key = stage_key({"stage": "invert", "inputs": {"lr": 0.1, "steps": 300}})
    assert key == stage_key({"inputs": {"steps": 300, "lr": 0.1}, "stage": "invert"})
    assert key != stage_key({"inputs": {"steps": 301, "lr": 0.1}, "stage": "invert"})
    assert len(key) == 64 and set(key) <= set("0123456789abcdef")


def test_written_file_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a.txt", b"old")
    write_bytes(tmp_path / "a.txt", b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"new"


def test_full_disk_is_one_sentence_and_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(tmp_path / "a.txt", b"old")
    monkeypatch.setattr(artifacts.os, "fsync", _full_disk)
    with pytest.raises(OutputError, match=r"No space is left on the disk of .*a\.txt: free some, or choose .* out=DIR"):
        write_bytes(tmp_path / "a.txt", b"new")
    assert (tmp_path / "a.txt").read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_unwritable_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="choose a folder that you may write to with out=DIR"):
        artifacts.ensure_folder(tmp_path / "file" / "run")


def test_json_keeps_numbers_and_drops_what_strict_json_lacks(tmp_path: Path) -> None:
    value = {
        "a": np.float64(0.1),
        "b": [torch.tensor([1.5]), np.arange(2)],
        "c": Path("x"),
        "d": float("nan"),
        "e": True,
    }
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == {"a": 0.1, "b": [[1.5], [0, 1]], "c": "x", "d": None, "e": True}
    assert plain((1, None)) == [1, None]


def test_copied_file_is_equal(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    copy_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"12345"


def _write(store: StageStore, key: str, value: torch.Tensor) -> None:
    with store.writer("invert", key, {"seconds": 1.0}) as writer:
        writer.tensors("w.safetensors", {"w": value})
        writer.json("facts.json", {"steps": 3})


def test_finished_stage_holds_its_files_under_its_key(tmp_path: Path) -> None:
    store, key = StageStore(tmp_path), "ab" * 32
    assert store.finished("invert", key) is None
    _write(store, key, torch.arange(6.0).reshape(2, 3).t())
    folder = tmp_path / "invert" / key[:16]
    description = store.finished("invert", key)
    assert (
        description is not None
        and description["seconds"] == 1.0
        and set(description["files"])
        == {
            "w.safetensors",
            "facts.json",
        }
    )
    assert torch.equal(read_tensors(folder / "w.safetensors")["w"], torch.arange(6.0).reshape(2, 3).t())
    assert [file.name for file in (tmp_path / "invert").iterdir()] == [key[:16]]


def test_output_that_fails_half_way_is_never_visible(tmp_path: Path) -> None:
    store, key = StageStore(tmp_path), "cd" * 32

    def write_half() -> None:
        with store.writer("edit", key, {}) as writer:
            writer.json("a.json", 1)
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert store.finished("edit", key) is None
    assert list((tmp_path / "edit").iterdir()) == []


def test_output_written_again_replaces_the_old_one(tmp_path: Path) -> None:
    store, key = StageStore(tmp_path), "ef" * 32
    _write(store, key, torch.zeros(2))
    _write(store, key, torch.ones(2))
    assert torch.equal(read_tensors(store.folder("invert", key) / "w.safetensors")["w"], torch.ones(2))
    assert len(list((tmp_path / "invert").iterdir())) == 1


def test_cut_or_foreign_output_is_called_damaged(tmp_path: Path) -> None:
    store, key = StageStore(tmp_path), "01" * 32
    _write(store, key, torch.zeros(8))
    with pytest.raises(DamagedFilesError, match="another key"):
        store.finished("invert", key[:16] + "ff" * 24)
    path = store.folder("invert", key) / "w.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedFilesError, match="is incomplete"):
        store.finished("invert", key)


def test_leftovers_of_a_killed_run_are_removed_and_nothing_else(tmp_path: Path) -> None:
    store, key = StageStore(tmp_path), "23" * 32
    _write(store, key, torch.zeros(2))
    (tmp_path / "tune" / ".tmp-1234-abc").mkdir(parents=True)
    (tmp_path / "tune" / ".tmp-1234-abc" / "x").write_text("half")
    (tmp_path / ".tmp-5-manifest.json").write_text("half")
    (tmp_path / "note.txt").write_text("mine")
    store.remove_leftovers()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["invert", "note.txt", "tune"]
    assert list((tmp_path / "tune").iterdir()) == []
    assert store.finished("invert", key) is not None


STATE = {
    "step": 7,
    "loss": 0.1 + 0.2,
    "best": float("inf"),
    "adam": {"state": {0: {"step": torch.tensor(7.0), "exp_avg": torch.randn(3, 2)}}, "betas": (0.9, 0.999)},
    "rng": torch.get_rng_state(),
    "array": np.arange(4, dtype=np.float64),
    "history": {"loss": [1.0, 0.5]},
    "none": None,
    "flag": True,
    "half": torch.ones(2, dtype=torch.bfloat16),
}


def test_checkpoint_gives_back_every_bit(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "k.partial", "k" * 64)
    assert checkpoints.load() is None
    checkpoints.save({"step": 1, "w": torch.zeros(3)})
    checkpoints.save(STATE)
    state = checkpoints.load()
    assert state is not None
    assert {name: state[name] for name in ("step", "loss", "best", "history", "none", "flag")} == {
        name: STATE[name] for name in ("step", "loss", "best", "history", "none", "flag")
    }
    assert state["adam"]["betas"] == (0.9, 0.999) and list(state["adam"]["state"]) == [0]
    assert torch.equal(state["adam"]["state"][0]["exp_avg"], STATE["adam"]["state"][0]["exp_avg"])
    assert torch.equal(state["rng"], STATE["rng"]) and state["half"].dtype == torch.bfloat16
    assert isinstance(state["array"], np.ndarray) and np.array_equal(state["array"], STATE["array"])
    assert len(list((tmp_path / "k.partial").glob("*.safetensors"))) == 1


def test_checkpoint_refuses_what_it_could_not_give_back(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot hold set"):
        Checkpoints(tmp_path, "k").save({"a": {1, 2}})


@pytest.mark.parametrize("harm", ["cut tensors", "cut json", "no tensors", "other key", "empty json", "wrong json"])
def test_damaged_checkpoint_is_recognised(tmp_path: Path, harm: str) -> None:
    checkpoints = Checkpoints(tmp_path / "k.partial", "k" * 64)
    checkpoints.save(STATE)
    (tensors,) = (tmp_path / "k.partial").glob("*.safetensors")
    document = tmp_path / "k.partial" / "state.json"
    if harm == "cut tensors":
        tensors.write_bytes(tensors.read_bytes()[:100])
    elif harm == "cut json":
        document.write_text(document.read_text()[:50])
    elif harm == "no tensors":
        tensors.unlink()
    elif harm == "other key":
        checkpoints = Checkpoints(tmp_path / "k.partial", "j" * 64)
    else:
        document.write_text("" if harm == "empty json" else "[1]")
    with pytest.raises(DamagedFilesError):
        checkpoints.load()


def test_checkpoint_survives_a_failed_replacement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path / "k.partial", "k")
    checkpoints.save({"step": 1, "w": torch.ones(2)})
    with monkeypatch.context() as patch:
        patch.setattr(artifacts.os, "fsync", _full_disk)
        with pytest.raises(OutputError, match="the last checkpoint are kept"):
            checkpoints.save({"step": 2, "w": torch.zeros(2)})
    state = checkpoints.load()
    assert state is not None and state["step"] == 1 and torch.equal(state["w"], torch.ones(2))
