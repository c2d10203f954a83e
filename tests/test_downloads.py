"""Fetching from a server that drops, changes, refuses or lies: what comes is whole, or a sentence says why not."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import downloads
from pipeline.downloads import DownloadError, Policy, check_url, fetch, part_path
from tests.file_server import FileServer, file_server

CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(280_000)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "*")
    with file_server(CONTENT) as served:
        yield served


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between two tries, which are not waited for."""
    slept: list[float] = []
    monkeypatch.setattr(downloads, "time", SimpleNamespace(sleep=slept.append))
    return slept


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "file.pkl"


def interrupted(server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch, keep: int = 100_000) -> None:
    """Fetch until Ctrl-C after `keep` bytes."""
    read = downloads._read

    def read_some(response: object, count: int) -> bytes:
        there = target.with_name("file.pkl.part").stat().st_size
        if there >= keep:
            raise KeyboardInterrupt
        return read(response, min(count, keep - there))

    with monkeypatch.context() as patch:
        patch.setattr(downloads, "_read", read_some)
        with pytest.raises(KeyboardInterrupt):
            fetch(server.url, target, "it")
    server.asked.clear()


def refusal(server: FileServer, target: Path, policy: Policy | None = None) -> str:
    with pytest.raises(DownloadError) as caught:
        fetch(server.url, target, "it", policy)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_whole_file_is_a_part_until_the_caller_accepts_it(server: FileServer, target: Path) -> None:
    part = fetch(server.url, target, "it")
    assert part == part_path(target)
    assert part.read_bytes() == CONTENT
    assert not target.exists()
    fetch(server.url, target, "it")
    assert server.asked == [(None, None)]  # what is whole is not asked for again


def test_dropped_connections_are_resumed_where_they_stopped(
    server: FileServer, target: Path, naps: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    server.cuts = [100_000, 50_000]
    assert fetch(server.url, target, "it").read_bytes() == CONTENT
    assert server.asked == [(None, None), ("bytes=100000-", '"one"'), ("bytes=150000-", '"one"')]
    assert naps == [1.0, 2.0]
    assert "it: the connection was lost; next try in 1 s" in capsys.readouterr().err


def test_tries_that_bring_much_do_not_count(server: FileServer, target: Path, naps: list[float]) -> None:
    server.content = random.Random(2).randbytes(4 << 20)
    server.cuts = [downloads.PROGRESS_BYTES] * 3
    assert fetch(server.url, target, "it", Policy(tries=2)).read_bytes() == server.content
    assert naps == [1.0] * 3


def test_a_line_that_stays_dead_ends_in_a_sentence_and_keeps_the_part(
    server: FileServer, target: Path, naps: list[float]
) -> None:
    server.cuts = [200_000, 0, 0]
    text = refusal(server, target, Policy(tries=3))
    assert text.startswith(f"it could not be fetched from {server.url} (the connection was lost): 0 MB are kept, and")
    assert text.endswith(f"put it at {target}.")
    assert naps == [1.0, 2.0]
    assert part_path(target).read_bytes() == CONTENT[:200_000]
    assert fetch(server.url, target, "it").read_bytes() == CONTENT
    assert server.asked[-1] == ("bytes=200000-", '"one"')


def test_ctrl_c_keeps_the_part_and_the_next_call_goes_on(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(server, target, monkeypatch)
    assert part_path(target).read_bytes() == CONTENT[:100_000]
    assert not target.exists()
    assert fetch(server.url, target, "it").read_bytes() == CONTENT
    assert server.asked == [("bytes=100000-", '"one"')]


@pytest.mark.parametrize("minds_if_range", [True, False])
@pytest.mark.parametrize("other", [OTHER, CONTENT[::-1], OTHER[:50_000]], ids=["longer", "as long", "shorter"])
def test_a_file_that_changed_in_between_is_fetched_anew(
    minds_if_range: bool,
    other: bytes,
    server: FileServer,
    target: Path,
    naps: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interrupted(server, target, monkeypatch)
    server.content, server.etag, server.minds_if_range = other, '"two"', minds_if_range
    assert fetch(server.url, target, "it").read_bytes() == other
    assert len(server.asked) == (1 if minds_if_range else 2)


@pytest.mark.parametrize(
    ("etag", "modified", "asked"),
    [
        ('W/"weak"', "Mon, 01 Jan 2024 00:00:00 GMT", ("bytes=100000-", "Mon, 01 Jan 2024 00:00:00 GMT")),
        (None, "Mon, 01 Jan 2024 00:00:00 GMT", ("bytes=100000-", "Mon, 01 Jan 2024 00:00:00 GMT")),
        ('W/"weak"', None, (None, None)),
        (None, None, (None, None)),
    ],
)
def test_only_a_version_that_can_be_told_apart_is_resumed(
    etag: str | None,
    modified: str | None,
    asked: tuple[str | None, str | None],
    server: FileServer,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.etag, server.modified = etag, modified
    interrupted(server, target, monkeypatch)
    assert fetch(server.url, target, "it").read_bytes() == CONTENT
    assert server.asked == [asked]


def test_a_server_without_ranges_sends_it_all_again(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(server, target, monkeypatch)
    server.knows_ranges = False
    assert fetch(server.url, target, "it").read_bytes() == CONTENT
    assert server.asked == [("bytes=100000-", '"one"')]


def test_the_part_of_another_address_or_without_its_note_is_not_continued(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(server, target, monkeypatch)
    assert fetch(f"{server.url}?other", target, "it").read_bytes() == CONTENT
    part_path(target).write_bytes(b"x" * 5000)
    (target.parent / "file.pkl.part.json").write_text('{"url": 3}')
    assert fetch(server.url, target, "it").read_bytes() == CONTENT
    assert server.asked == [(None, None), (None, None)]


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(
    server: FileServer, target: Path, naps: list[float]
) -> None:
    server.answers = [503, 429]
    assert fetch(server.url, target, "it").read_bytes() == CONTENT
    assert naps == [1.0, 2.0]
    server.answers = [404]
    assert refusal(server, target.with_name("b.pkl")).startswith(
        f"{server.url} answers 404 Not Found, as if the file were not"
    )
    assert len(naps) == 2


def test_no_connection_at_all_is_one_sentence(target: Path, naps: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with file_server(CONTENT) as gone:
        pass
    assert "(no connection: [Errno 111] Connection refused)" in refusal(gone, target) or os.name == "nt"
    assert naps == [1.0, 2.0, 4.0]


def test_a_page_or_an_answer_without_a_length_is_no_file(server: FileServer, target: Path) -> None:
    server.content_type = "text/html"
    assert "answers with a page (status 200, text/html) instead of the file: fetch" in refusal(server, target)
    server.content_type, server.says_length = "application/octet-stream", False
    assert "does not say how long its file is" in refusal(server, target)
    assert not part_path(target).exists()


def test_a_file_far_larger_than_meant_is_not_taken(server: FileServer, target: Path) -> None:
    text = refusal(server, target, Policy(max_bytes=100_000))
    assert text == "it would have 0 MB, allowed are 0 MB: the address holds another file than was meant."
    assert not part_path(target).exists()


def test_too_small_a_disk_is_seen_before_anything_is_written(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=50_000_000))
    assert refusal(server, target) == (
        f"it needs 100 MB, and the disk of {target.parent} has 50 MB: free some, or choose another folder with "
        "PHOTODRAG_CACHE=FOLDER; what has come is kept, and the same command goes on from there."
    )
    assert not part_path(target).exists()


def test_a_disk_that_fills_meanwhile_keeps_what_came(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        if os.fstat(descriptor).st_size > 10_000:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert refusal(server, target).startswith("it needs more room than is left, and the disk of")
    assert fetch(server.url, target, "it").read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_a_place_that_cannot_be_written_is_one_sentence(server: FileServer, target: Path) -> None:
    part_path(target).mkdir()
    text = refusal(server, target)
    assert text.startswith(f"{part_path(target)} cannot be written (")
    assert text.endswith("choose a folder that you may write to with PHOTODRAG_CACHE=FOLDER.")


@pytest.mark.parametrize("url", ["http://example.org/a", "ftp://example.org/a", "file:///etc/passwd", "example.org/a"])
def test_only_https_is_fetched(url: str) -> None:
    with pytest.raises(DownloadError, match="is not fetched: allowed are https addresses"):
        check_url(url)
    check_url("https://example.org/a")


@pytest.mark.parametrize("elsewhere", ["http://example.org/a", "ftp://example.org/a"])
def test_a_redirect_leaves_https_for_nothing(elsewhere: str, server: FileServer, target: Path) -> None:
    server.answers, server.redirect = [302], elsewhere
    assert refusal(server, target).startswith(f"{elsewhere} is not fetched: allowed are https addresses")


def test_a_redirect_keeps_the_range(server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(server, target, monkeypatch)
    server.answers, server.redirect = [302], f"{server.url}?signed"
    assert fetch(server.url, target, "it").read_bytes() == CONTENT
    assert server.asked == [("bytes=100000-", '"one"')] * 2
