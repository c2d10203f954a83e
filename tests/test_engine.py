"""The engine that reuses, computes and continues stages; Ctrl-C inside an optimisation; the lock of a run folder."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from data.errors import UsageError
from inversion.optimisation import StepInfo
from pipeline.artifacts import (
    Checkpoints,
    StageStore,
    StageWriter,
    read_json,
)
from pipeline.engine import Attempt, Engine, MissingStageError, StageRecord, StageSpec
from pipeline.locks import LOCK_FILE, run_lock
from pipeline.progress import Console, checkpointed_steps

ROOT = Path(__file__).resolve().parents[1]


def _number_spec(name: str = "count") -> StageSpec[int]:
    def save(writer: StageWriter, value: int) -> None:
        writer.json("value.json", value)

    return StageSpec(
        name, 1, save, lambda folder: int(read_json(folder / "value.json")), lambda value: {"value": value}
    )


def _engine(root: Path, requested: set[str], resume: bool = True) -> tuple[Engine, list[StageRecord]]:
    records: list[StageRecord] = []
    return Engine(StageStore(root), Console(progress=False), requested, resume, records.append), records


def test_second_call_reuses_and_another_input_computes(tmp_path: Path) -> None:
    calls = []

    def compute(attempt: Attempt) -> int:
        calls.append(attempt.resume)
        return 40 + len(calls)

    engine, records = _engine(tmp_path, {"count"})
    first = engine.obtain(_number_spec(), {"seed": 0}, compute)
    again = engine.obtain(_number_spec(), {"seed": 0}, compute)
    other = engine.obtain(_number_spec(), {"seed": 1}, compute, face=1)
    assert (first.value, again.value, other.value) == (41, 41, 42)
    assert calls == [None, None] and first.key == again.key != other.key
    assert [record.reused for record in records] == [False, True, False]
    assert records[1].computed_seconds == records[0].seconds and records[2].face == 1
    assert records[1].facts == {"value": 41}


def test_resume_false_computes_again(tmp_path: Path) -> None:
    for value in (1, 2):
        engine, records = _engine(tmp_path, {"count"}, resume=False)
        assert engine.obtain(_number_spec(), {}, lambda _, value=value: value).value == value
        assert not records[0].reused


def test_stage_that_was_not_requested_must_be_finished(tmp_path: Path) -> None:
    engine, _ = _engine(tmp_path, {"edit"})
    with pytest.raises(MissingStageError) as caught:
        engine.obtain(_number_spec(), {}, lambda _: 1)
    assert caught.value.stage == "count"


def test_known_key_reads_a_stored_output(tmp_path: Path) -> None:
    engine, _ = _engine(tmp_path, {"count"})
    key = engine.obtain(_number_spec(), {"a": 1}, lambda _: 5).key
    other, records = _engine(tmp_path, set())
    assert other.obtain(_number_spec(), {}, lambda _: 6, known_key=key).value == 5
    assert records[0].reused


def test_damaged_output_is_moved_aside_and_computed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine, records = _engine(tmp_path, {"count"})
    stored = engine.obtain(_number_spec(), {}, lambda _: 5)
    (stored.folder / "value.json").write_text("")
    assert engine.obtain(_number_spec(), {}, lambda _: 5).value == 5
    assert not records[1].reused
    assert stored.folder.with_name(stored.folder.name + ".damaged-1").is_dir()
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1 and "the stored count stage is damaged" in warning


def _info(step: int, total: int, value: float) -> StepInfo:
    return StepInfo(step, total, value, lambda: {"step": step, "value": torch.tensor(value)})


def _sum_steps(attempt: Attempt, stop_at: int | None = None, total: int = 10) -> float:
    """Adds 1, 2, 3 ... as an optimisation would: resumable, with a checkpoint every 4 steps."""
    start = attempt.resume["step"] if attempt.resume else 0
    value = float(attempt.resume["value"]) if attempt.resume else 0.0
    with checkpointed_steps(Console(progress=False), "sum", attempt.checkpoints, 4) as on_step:
        for step in range(start + 1, total + 1):
            value += step
            if step == stop_at:
                raise RuntimeError("power cut")
            on_step(_info(step, total, value))
    return value


def test_interrupted_stage_continues_from_its_last_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine, records = _engine(tmp_path, {"count"})
    with pytest.raises(RuntimeError, match="power cut"):
        engine.obtain(_number_spec(), {}, lambda attempt: int(_sum_steps(attempt, stop_at=10)))
    assert len(list((tmp_path / "count").glob("*.partial"))) == 1
    seen = []

    def compute(attempt: Attempt) -> int:
        seen.append(attempt.resume["step"] if attempt.resume else None)
        return int(_sum_steps(attempt))

    assert engine.obtain(_number_spec(), {}, compute).value == 55
    assert seen == [8] and records[0].resumed
    assert list((tmp_path / "count").glob("*.partial")) == []
    assert "count: continuing from its last checkpoint" in capsys.readouterr().out


def test_damaged_checkpoint_starts_again_with_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine, records = _engine(tmp_path, {"count"})
    with pytest.raises(RuntimeError, match="power cut"):
        engine.obtain(_number_spec(), {}, lambda attempt: int(_sum_steps(attempt, stop_at=10)))
    (file,) = (tmp_path / "count").glob("*.partial/*.safetensors")
    file.write_bytes(b"")
    assert engine.obtain(_number_spec(), {}, lambda attempt: int(_sum_steps(attempt))).value == 55
    assert not records[0].resumed
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1 and "the checkpoint of count is damaged" in warning and "starts again" in warning


def _ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def _watch(checkpoints: Checkpoints, events: Sequence[int | Callable[[], None]], done: list[Any]) -> None:
    """Report the steps of `events` and call its functions; `done` gets each event that was survived."""
    with checkpointed_steps(Console(progress=False), "sum", checkpoints, 100) as on_step:
        for event in events:
            if isinstance(event, int):
                on_step(_info(event, 10, float(event)))
            else:
                event()
            done.append(event)


def test_ctrl_c_stores_the_step_it_falls_into(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "k.partial", "k")
    before, done = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt):
        _watch(checkpoints, [1, _ctrl_c, 2, 3], done)
    state = checkpoints.load()
    assert done == [1, _ctrl_c]
    assert state is not None
    assert state["step"] == 2
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("events", [[_ctrl_c, 1], [1, _ctrl_c, _ctrl_c, 2]])
def test_ctrl_c_before_the_first_step_and_a_second_one_end_at_once(tmp_path: Path, events: list[Any]) -> None:
    checkpoints, done = Checkpoints(tmp_path / "k.partial", "k"), []
    with pytest.raises(KeyboardInterrupt):
        _watch(checkpoints, events, done)
    assert done == events[:-2]
    assert checkpoints.load() is None


def test_ctrl_c_after_the_last_step_is_not_lost(tmp_path: Path) -> None:
    done: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        _watch(Checkpoints(tmp_path / "k.partial", "k"), [10, _ctrl_c], done)
    assert done == [10, _ctrl_c]


def test_lock_keeps_others_out_and_names_its_owner(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        owner = json.loads((tmp_path / LOCK_FILE).read_text())
        assert owner["pid"] == os.getpid()
        with (
            pytest.raises(UsageError, match=rf"in use by process {os.getpid()} on .*: wait until .* out=DIR"),
            run_lock(tmp_path),
        ):
            pass
    assert not (tmp_path / LOCK_FILE).exists()
    with run_lock(tmp_path):
        pass


def test_a_lock_whose_owner_has_yet_to_write_its_name_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / LOCK_FILE
    file.touch()
    with file.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        named = threading.Timer(0.2, lambda: file.write_text('{"pid": 7, "host": "there"}'))
        named.start()
        with pytest.raises(UsageError, match="in use by process 7 on there"), run_lock(tmp_path):
            pass
        named.join()
        file.write_text("")
        with pytest.raises(UsageError, match="in use by another process"), run_lock(tmp_path):
            pass


def test_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from pipeline.locks import run_lock\n"
    code += "with run_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=f"in use by process {process.pid}"), run_lock(tmp_path):
            pass
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / LOCK_FILE).exists()
    started = time.monotonic()
    with run_lock(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert time.monotonic() - started < 5
