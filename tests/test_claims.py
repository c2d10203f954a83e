"""Locks on disks that cannot lock files: a claim beside the work, taken over when its owner is gone."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data.errors import UsageError
from pipeline import claims, locks
from pipeline.claims import ClaimedError, claim
from pipeline.locks import LOCK_FILE, LockedError, file_lock, run_lock
from pipeline.run import run
from tests.runs import run_dir, short_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> bool:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(locks, "_lock", refuse)


def claim_of(folder: Path) -> Path:
    return folder / f"{LOCK_FILE}.claim"


def put(folder: Path, **changes: Any) -> None:
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "began": claims._began(os.getpid()), "id": "theirs"}
    claim_of(folder).write_text(json.dumps(owner | changes))


@pytest.mark.usefixtures("no_locks")
def test_a_run_works_and_others_are_kept_out(generator: Path, tmp_path: Path) -> None:
    run(short_config(generator, tmp_path, stages=["align"]))
    folder = run_dir(tmp_path)
    assert not claim_of(folder).exists() and not (folder / LOCK_FILE).exists()
    told = rf"in use by process {os.getpid()} on .* \(this disk cannot lock files: .* has ended, remove .*claim\)"
    with run_lock(folder), pytest.raises(UsageError, match=told):
        run(short_config(generator, tmp_path, stages=["align"]))
    run(short_config(generator, tmp_path, stages=["align"]))


@pytest.mark.usefixtures("no_locks")
def test_the_claim_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from pipeline.claims import claim\n"
    code += "with claim(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    words = [sys.executable, "-c", code, str(tmp_path / LOCK_FILE)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"process {process.pid} on"), file_lock(tmp_path / LOCK_FILE, 0.2):
            pass
    finally:
        process.kill()
        process.wait()
    assert claim_of(tmp_path).exists()
    with run_lock(tmp_path):
        assert json.loads(claim_of(tmp_path).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("owner", "free"),
    [
        ({}, False),
        ({"host": "elsewhere"}, False),
        ({"host": "elsewhere", "pid": 2**30}, False),
        ({"pid": 2**30}, True),
        ({"began": "another time"}, True),
    ],
)
def test_only_a_process_of_this_host_is_known_to_be_gone(tmp_path: Path, owner: dict[str, Any], free: bool) -> None:
    if owner == {"began": "another time"} and claims._began(os.getpid()) is None:
        pytest.skip("this system does not tell when a process began")
    put(tmp_path, **owner)
    if free:
        with claim(tmp_path / LOCK_FILE):
            assert json.loads(claim_of(tmp_path).read_text())["id"] != "theirs"
        assert not claim_of(tmp_path).exists()
    else:
        with pytest.raises(ClaimedError), claim(tmp_path / LOCK_FILE):
            pass
        assert json.loads(claim_of(tmp_path).read_text())["id"] == "theirs"


@pytest.mark.parametrize("links", [True, False])
def test_an_unreadable_claim_is_taken_over_and_no_links_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def refuse(*_: Any) -> None:
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", refuse)
    claim_of(tmp_path).write_text("")
    with claim(tmp_path / LOCK_FILE):
        with pytest.raises(ClaimedError), claim(tmp_path / LOCK_FILE):
            pass
        assert claim_of(tmp_path).exists()
    assert list(tmp_path.iterdir()) == []


def test_other_failures_of_a_lock_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> bool:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(locks, "_lock", fail)
    with pytest.raises(OSError, match="broken disk"), file_lock(tmp_path / LOCK_FILE):
        pass
    assert list(tmp_path.iterdir()) == []
