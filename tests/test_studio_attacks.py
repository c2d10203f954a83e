"""The attacks on a running studio fail, and each kind of them is seen to succeed where what stops it is taken away."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from benchmarks.studio_attacked import attacked, table
from benchmarks.studio_attacks import ATTACKS, Result, run_attacks
from benchmarks.studio_target import Attack
from pipeline.studio.security import App, Guard, Receive, Scope, Send
from tests.fake_desk import FakeDesk


def attacks(*groups: str, names: Sequence[str] = ()) -> list[Attack]:
    """Those of some groups, or of some names."""
    return [attack for attack in ATTACKS if attack.group in groups or attack.name in names]


def succeeded(results: Sequence[Result]) -> set[str]:
    return {result.name for result in results if result.succeeded}


def test_every_attack_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.studio.command.SILENT_SECONDS", 2.0)
    with attacked(tmp_path) as target:
        results = list(run_attacks(target))
        left = target.files()
    assert succeeded(results) == set(), table([result for result in results if result.succeeded])
    assert len(results) == len(ATTACKS) >= 30
    assert left == set()


def test_attacks_have_names_of_their_own() -> None:
    names = [(attack.group, attack.name) for attack in ATTACKS]
    assert len(set(names)) == len(names)


def without_guard(guard: App) -> App:
    assert isinstance(guard, Guard)
    return guard._app


def test_without_its_guard_a_studio_is_open(tmp_path: Path) -> None:
    with attacked(tmp_path, wrap=without_guard) as target:
        results = list(run_attacks(target, attacks("without the token", "a foreign page, with the cookie")))
    found = succeeded(results)
    assert {"a part of the photo", "an upload", "the socket", "a wrong cookie", "the Host 127.0.0.1:1"} <= found
    assert {"a name that was rebound to 127.0.0.1", "the socket with a foreign Origin", "the page in a frame"} <= found
    assert {"an upload with the Origin null", "a picture element, cross-site", "a form that sends a photo"} <= found
    assert len(found) > 30


def test_a_guard_that_forgets_its_headers_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.studio.security.HEADERS", ())
    monkeypatch.setattr("pipeline.studio.security.content_policy", lambda host: "script-src 'unsafe-inline'")
    with attacked(tmp_path) as target:
        results = list(run_attacks(target, attacks("the token and the page", names=["the page in a frame"])))
    assert {"the page in a frame", "the token staying in the address bar"} <= succeeded(results)
    assert "scripts, frames or servers of others in the page" in succeeded(results)


def serving_any_file(app: App) -> App:
    """A server that looks for a path on the disk, as careless ones do."""

    async def careless(scope: Scope, receive: Receive, send: Send) -> None:
        path = "/" + unquote(scope["path"]).replace("\\", "/").split("../")[-1].split("//")[-1].lstrip("/") + "\0"
        file = Path(path.removeprefix("/static/").removeprefix("/pictures/").removeprefix("/downloads/").rstrip("\0"))
        file = file if file.is_file() else Path("/", file)
        if scope["type"] != "http" or not file.is_file():
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": file.read_bytes()})

    return careless


def test_a_file_that_is_had_is_seen(tmp_path: Path) -> None:
    with attacked(tmp_path, wrap=serving_any_file) as target:
        results = list(run_attacks(target, attacks("addresses, with the cookie")))
    assert {"up with ..", "up with %2e%2e%2f", "two slashes", "up, quoted twice"} <= succeeded(results)


def test_a_studio_that_takes_every_file_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def take(self: FakeDesk, path: Path, name: str) -> str:
        path.rename(path.parents[2] / name if name.startswith("evil") else path.parent / "kept")
        return "abcdabcd"

    with attacked(tmp_path) as target:
        monkeypatch.setattr("pipeline.studio.server.check_photo", lambda *_: None)
        monkeypatch.setattr(FakeDesk, "add_photo", take)
        found = succeeded(list(run_attacks(target, attacks("uploads, with the cookie"))))
    assert {"a text", "a pickle", "a PNG of 50000 x 50000 pixels", "an SVG with a script"} <= found
    assert "the name ../../evil.png" in found


def test_a_payload_that_is_run_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with attacked(tmp_path) as target:
        monkeypatch.setattr("pipeline.studio.server.check_photo", lambda *_: target.outside.touch())
        found = succeeded(list(run_attacks(target, attacks(names=["a pickle that calls a program"]))))
    assert found == {"a pickle that calls a program"}


def test_a_desk_that_does_as_it_is_told_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def obey(self: FakeDesk, session: Any, request: Any, watcher: Any) -> None:
        session.tell(sentence="Done.")

    with attacked(tmp_path) as target:
        monkeypatch.setattr(FakeDesk, "_mask", obey)
        monkeypatch.setattr(FakeDesk, "_replay", obey)
        found = succeeded(list(run_attacks(target, attacks("messages, with the cookie"))))
    assert {"a mask that is a text", "a mask that is a pickle", "a recipe that names a file"} <= found
    assert "no JSON" not in found
