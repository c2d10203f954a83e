"""What a batch remembers: torn lines, parts, hashes of files that change."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from data.errors import OutputError
from pipeline import ledger as module
from pipeline.artifacts import append_lines, read_lines
from pipeline.ledger import LEDGER, SHARDS, ChangingError, Entry, HashCache, Ledger

DONE = Entry(
    "a" * 64, "c" * 64, "done", photo="caf\udce9.jpg", rows=({"photo": "x", "psnr": 1.5},), run="../x", result="y.png",
    size=3, mtime_ns=4, kind="K", seconds=2.5,
)  # fmt: skip
FAILED = dataclasses.replace(DONE, status="failed", error="No face.", rows=())


def test_what_is_added_is_there_for_the_next_call(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path, tmp_path)
    ledger.add(FAILED)
    ledger.add(DONE)
    ledger.add_saved(("/p", "a", "c", "/out", "{stem}"), Path("/out/caf\udce9.jpg"))
    again = Ledger.open(tmp_path, tmp_path)
    assert dataclasses.asdict(again.entries[DONE.key]) == dataclasses.asdict(DONE)
    assert again.saved == ledger.saved == {("/p", "a", "c", "/out", "{stem}"): "/out/caf\udce9.jpg"}


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_last_line_costs_itself_only(tmp_path: Path, cut: int) -> None:
    Ledger.open(tmp_path, tmp_path).add(DONE)
    other = dataclasses.replace(DONE, sha256="b" * 64)
    Ledger.open(tmp_path, tmp_path).add(other)
    path = tmp_path / LEDGER
    path.write_bytes(path.read_bytes()[:-cut])
    ledger = Ledger.open(tmp_path, tmp_path)
    assert set(ledger.entries) == ({DONE.key, other.key} if cut == 1 else {DONE.key})
    third = dataclasses.replace(DONE, sha256="d" * 64)
    ledger.add(third)
    assert {DONE.key, third.key} <= set(Ledger.open(tmp_path, tmp_path).entries)


def test_lines_that_are_none_of_ours_count_for_nothing(tmp_path: Path) -> None:
    lines = [
        "[]",
        "{}",
        '{"line": "item"}',
        '{"line": "item", "sha256": "x", "strange": 1}',
        '{"line": "saved"}',
        "\x00",
    ]
    append_lines(tmp_path / LEDGER, lines)
    Ledger.open(tmp_path, tmp_path).add(DONE)
    assert list(Ledger.open(tmp_path, tmp_path).entries) == [DONE.key]


def test_a_call_sees_what_the_parts_wrote_and_a_part_writes_only_its_own(tmp_path: Path) -> None:
    parts = [tmp_path / SHARDS / f"{number}_of_2" for number in (1, 2)]
    for number, part in enumerate(parts):
        part.mkdir(parents=True)
        Ledger.open(tmp_path, part).add(dataclasses.replace(DONE, sha256=str(number) * 64))
    whole = Ledger.open(tmp_path, tmp_path)
    assert {key[0][0] for key in whole.entries} == {"0", "1"}
    whole.add(FAILED)
    assert set(Ledger.open(tmp_path, parts[0]).entries) == {key for key in whole.entries if key[0] != "1" * 64}
    assert [len(list(read_lines(part / LEDGER))) for part in parts] == [1, 1]


def test_a_failure_of_another_part_does_not_hide_what_is_done(tmp_path: Path) -> None:
    part = tmp_path / SHARDS / "1_of_2"
    part.mkdir(parents=True)
    Ledger.open(tmp_path, tmp_path).add(DONE)
    Ledger.open(tmp_path, part).add(FAILED)
    assert Ledger.open(tmp_path, tmp_path).entries[DONE.key].status == "done"


def test_a_ledger_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / LEDGER).mkdir()
    with pytest.raises(OutputError, match="Cannot write"):
        Ledger(tmp_path).add(DONE)


def test_a_file_is_hashed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo, reads = tmp_path / "caf\udce9.jpg", []
    photo.write_bytes(b"one")
    hash_file = module.file_sha256
    monkeypatch.setattr(module, "file_sha256", lambda path: reads.append(path) or hash_file(path))
    first, _ = HashCache(tmp_path, tmp_path).hash(str(photo))
    cache = HashCache(tmp_path, tmp_path)
    assert cache.known(str(photo)) is not None
    assert cache.hash(str(photo))[0] == first
    assert len(reads) == 1
    photo.write_bytes(b"two")
    os.utime(photo, ns=(1, 1))
    assert cache.known(str(photo)) is None
    assert HashCache(tmp_path, tmp_path).hash(str(photo))[0] != first
    assert len(reads) == 2


def test_a_file_that_is_written_to_while_it_is_read_has_no_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"half")

    def writing(path: Path) -> str:
        path.write_bytes(b"half and more")
        return "0" * 64

    monkeypatch.setattr(module, "file_sha256", writing)
    with pytest.raises(ChangingError):
        HashCache(tmp_path, tmp_path).hash(str(photo))
    assert HashCache(tmp_path, tmp_path).known(str(photo)) is None
    with pytest.raises(FileNotFoundError):
        HashCache(tmp_path, tmp_path).hash(str(tmp_path / "gone.jpg"))
