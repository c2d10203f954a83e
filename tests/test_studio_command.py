"""`photodrag studio`: its words, its port, what is said when it cannot start, and that Ctrl-C ends it soon."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.cookiejar import CookieJar
from pathlib import Path

import pytest

from benchmarks.studio_attacked import attacked
from data.errors import PhotodragError, UsageError
from pipeline import doctor
from pipeline.arguments import help_text, parse_arguments
from pipeline.cli import main
from pipeline.studio import command
from pipeline.studio.command import PACKAGES, check_installed, listen, show
from pipeline.studio.options import DEFAULT_PORT, StudioOptions, split_studio_options
from tests.fake_desk import SAMPLE

REPOSITORY = Path(__file__).resolve().parents[1]
BUSY_SECONDS = 6
"""2 s, and what a busy machine may add."""
SCRIPT = """
import sys, types
from tests.fake_desk import FakeDesk
module = types.ModuleType("pipeline.studio.desk")
class Desk(FakeDesk):
    def __init__(self, config, limits):
        from pathlib import Path
        super().__init__(Path(config.out) / "studio" / "desk", 1.0, limits)
    def close(self):
        {close}
        super().close()
module.Desk = Desk
sys.modules["pipeline.studio.desk"] = module
from pipeline.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("words", "options", "others"),
    [
        ([], StudioOptions(), []),
        (["--port", "0", "me.jpg"], StudioOptions(port=0), ["me.jpg"]),
        (["--port=9000", "--no-browser"], StudioOptions(port=9000, browser=False), []),
        (["--host", "::1"], StudioOptions(host="::1"), []),
        (["--host=[::1]"], StudioOptions(host="::1"), []),
        (["--host", "LOCALHOST"], StudioOptions(host="localhost"), []),
        (["--host", "127.0.0.2"], StudioOptions(host="127.0.0.2"), []),
        (
            ["--host", "0.0.0.0", "--token", "0123456789abcdef"],
            StudioOptions(host="0.0.0.0", token="0123456789abcdef"),
            [],
        ),
        (["--max-megapixels", "20", "--debug", "out=x"], StudioOptions(max_megapixels=20), ["--debug", "out=x"]),
    ],
)
def test_the_options_are_read(words: list[str], options: StudioOptions, others: list[str]) -> None:
    assert split_studio_options(words) == (options, others)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--port"], "--port is followed by nothing: allowed is 0 to 65535"),
        (["--port", "65536"], "--port is 65536: allowed is 0 to 65535"),
        (["--port", "-1"], "--port is -1: allowed is 0 to 65535"),
        (["--port", "9" * 5000], "--port is 999"),
        (
            ["--host", "0.0.0.0"],
            "--host is 0.0.0.0, which other machines can reach: allowed without --token are 127.0.0.1",
        ),
        (["--host", "192.168.1.5"], "--host is 192.168.1.5, which other machines can reach"),
        (["--host", "::"], "--host is ::, which other machines can reach"),
        (["--host", "http://x/"], "--host is http://x/: allowed is an address such as 127.0.0.1"),
        (["--host", ""], "--host is followed by nothing"),
        (["--token", "short"], "--token has 5 characters, or some that cannot be in an address: allowed are 16 to 200"),
        (["--token", "a b c d e f g h i"], "--token has 17 characters, or some that cannot be in an address"),
        (["--max-megapixels", "500"], "--max-megapixels is 500: allowed is 1 to 200"),
        (["--prot", "3"], "--prot is not an option of photodrag studio: allowed are --port, --host"),
        (["me.jpg", "you.jpg"], "photodrag studio is given me.jpg, you.jpg: allowed is one photo; the page opens more"),
        ([str(REPOSITORY)], f"photodrag studio is given {REPOSITORY}: allowed is one photo"),
        (["-m", "seed=1,2"], "-m is given to photodrag studio, which runs nothing by itself: leave it out"),
        (["--offline"], "--offline is given to photodrag studio, which fetches nothing"),
        (["photo=a.jpg", "b.jpg"], "2 photos are given (b.jpg, a.jpg)"),
    ],
)
def test_words_that_cannot_be_meant_are_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_arguments(["studio", *words])
    assert str(raised.value).startswith(sentence)


def test_a_secret_is_not_repeated_in_an_error() -> None:
    with pytest.raises(UsageError) as raised:
        parse_arguments(["studio", "--token", "almost!a!secret!word"])
    assert "almost" not in str(raised.value)


def test_the_command_line_is_taken_apart() -> None:
    words = ["studio", str(SAMPLE), "invert.steps=20", "--port", "0", "out=somewhere"]
    parsed = parse_arguments(words)
    assert parsed.verb == "studio" and parsed.studio == StudioOptions(port=0)
    assert parsed.overrides == (f"photo='{SAMPLE}'", "invert.steps=20", "out='somewhere'")
    assert parse_arguments(["--debug", "studio"]).studio == StudioOptions()
    assert parse_arguments(["studio", "--", "-odd.jpg"]).overrides == ("photo='-odd.jpg'",)
    assert parse_arguments(["me.jpg"]).studio is None


def test_options_of_the_studio_are_none_of_other_verbs() -> None:
    with pytest.raises(UsageError, match="--port is not an option"):
        parse_arguments(["me.jpg", "--port", "3"])


def test_the_help_names_the_studio_and_its_options() -> None:
    text = help_text()
    assert "photodrag studio [PHOTO]" in text
    assert all(option in text for option in ("--port", "--host", "--token", "--no-browser", "--max-megapixels"))
    assert max(len(line) for line in text.splitlines()) <= 120


def test_a_photo_that_is_not_there_is_said_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["studio", "nowhere.jpg", "--no-browser"]) == 2
    assert capsys.readouterr().err.startswith("photodrag: photo is nowhere.jpg, which does not exist")


def test_without_the_extra_the_install_command_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in PACKAGES[:2] else find(name))
    with pytest.raises(PhotodragError):
        check_installed()
    assert main(["studio"]) == 1
    expected = "photodrag: photodrag studio needs packages that are not installed (starlette, uvicorn): "
    assert capsys.readouterr().err == f"{expected}pip install 'photodrag[studio]'.\n"


def test_the_doctor_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = doctor.check_studio()
    assert row.status == "ok" and all(name in row.found for name in PACKAGES)
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    (row,) = doctor.check_studio()
    assert (row.status, row.found) == ("optional", "no starlette, uvicorn, websockets")
    assert row.mend == "pip install 'photodrag[studio]'"


# Listening ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program has."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def test_a_port_that_is_taken_is_said_when_it_was_asked_for(taken: int) -> None:
    with pytest.raises(
        UsageError, match=f"--port is {taken}, which another program has: give another one, or 0 for any"
    ):
        listen(StudioOptions(port=taken))


def test_without_a_port_the_next_free_one_is_taken(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "DEFAULT_PORT", taken)
    with listen(StudioOptions()) as listening:
        assert taken < listening.getsockname()[1] < taken + command.MOST_PORTS
    monkeypatch.setattr(command, "MOST_PORTS", 1)
    with pytest.raises(UsageError, match="give --port 0 for any other"):
        listen(StudioOptions())


def test_any_port_may_be_asked_for() -> None:
    with listen(StudioOptions(port=0)) as one, listen(StudioOptions(port=0)) as two:
        assert one.getsockname()[0] == "127.0.0.1"
        assert one.getsockname()[1] != two.getsockname()[1]
    assert DEFAULT_PORT == 8642


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-name.invalid"])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match=f"--host is {host}, which is no address of this machine"):
        listen(StudioOptions(port=0, host=host, token="0123456789abcdef"))


def test_no_browser_is_opened_where_there_is_no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(command.webbrowser, "open", opened.append)
    monkeypatch.setattr(command.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    show("http://127.0.0.1/")
    assert opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    show("http://127.0.0.1/")
    assert opened == ["http://127.0.0.1/"]


# A whole process ----------------------------------------------------------------------------------------------------


class Running:
    """A studio in a process of its own, with the fake desk."""

    def __init__(self, out: Path, *words: str, close: str = "pass", browser: str = "") -> None:
        script = browser + SCRIPT.replace("{close}", close)
        words = ("studio", "--port", "0", f"out={out}", *words)
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, *words],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "DISPLAY": ":0"},
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        self.url = self.line.split()[2] if self.line else ""

    def page(self) -> str:
        """What the printed address shows in the end, or why it does not."""
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        try:
            with opener.open(self.url, timeout=10) as answer:
                return f"{answer.status} {answer.url}"
        except urllib.error.HTTPError as error:
            return f"{error.code} {error.url}"

    def end(self, number: signal.Signals) -> tuple[int, str, str, float]:
        """Code, what was printed, and the seconds it took."""
        began = time.monotonic()
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err, time.monotonic() - began


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_studio_serves_and_ends_in_peace(tmp_path: Path, number: signal.Signals) -> None:
    studio = Running(tmp_path, "--no-browser", str(SAMPLE))
    assert studio.line.startswith("photodrag studio: http://127.0.0.1:") and studio.line.endswith("(Ctrl-C ends it)\n")
    base, _, token = studio.url.partition("?token=")
    assert studio.page().split()[1] == base and len(token) == 43
    code, out, err, seconds = studio.end(number)
    assert (code, err) == (0, "")
    assert out == f"The studio ends; its sessions are kept in {tmp_path / 'studio'}.\n"
    assert seconds < BUSY_SECONDS


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_desk_that_does_not_end_does_not_hold_the_studio(tmp_path: Path) -> None:
    studio = Running(tmp_path, "--no-browser", close="import time; time.sleep(60)")
    code, out, _, seconds = studio.end(signal.SIGINT)
    assert code == 0 and out.startswith("The studio ends; its sessions are kept in ")
    assert seconds < BUSY_SECONDS


def test_the_browser_gets_an_address_of_its_own(tmp_path: Path) -> None:
    studio = Running(tmp_path, browser="import webbrowser; webbrowser.open = lambda url: print(url, flush=True)")
    assert studio.process.stdout is not None
    shown = studio.process.stdout.readline().strip()
    studio.end(signal.SIGTERM)
    assert shown.partition("?")[0] == studio.url.partition("?")[0]
    assert len(shown) == len(studio.url) and shown != studio.url


# The server ---------------------------------------------------------------------------------------------------------


def test_a_connection_that_asks_nothing_is_ended_and_a_socket_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "SILENT_SECONDS", 0.2)
    with attacked(tmp_path) as target, target.talk() as page:
        with target.connection() as silent, target.connection() as half:
            half.sendall(b"GET / HTTP/1.1\r\nHost: ")
            assert silent.recv(100) == b"" and half.recv(100) == b""
        page.recv(10)
        page.send('{"do":"undo","session":"abcd1234"}')
        assert "trouble" in str(page.recv(10))
