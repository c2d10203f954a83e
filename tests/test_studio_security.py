"""The guard of a studio: who is let in, who is not and what each is told, and what every answer says to the browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from pipeline.studio.security import NO_COOKIE, WRONG_HOST, WRONG_PAGE, WRONG_TOKEN, Door, new_token
from tests.studio_pages import ORIGIN, PAGE, PORT, TOKEN, Studio

PATHS = ("/", "/static/main.js", "/pictures/abcdabcd", "/downloads/abcdabcd", "/region?session=abcd", "/nothing", "//x")
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(tmp_path)


def test_the_printed_address_sets_the_cookie_and_leaves_the_address_bar(studio: Studio) -> None:
    client = studio.client(cookie=False, Origin="", Sec_Fetch_Site="none")
    answer = client.get(f"/?token={TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert answer.headers["set-cookie"] == f"photodrag_{PORT}={TOKEN}; Path=/; HttpOnly; SameSite=Strict"
    page = client.get("/")
    assert page.status_code == 200
    assert page.text == PAGE["index.html"]
    assert page.headers["content-type"] == "text/html; charset=utf-8"


def test_the_ticket_of_the_browser_works_once(studio: Studio) -> None:
    client = studio.client(cookie=False, Origin="", Sec_Fetch_Site="none")
    assert studio.door.ticket is not None
    first = client.get(f"/?token={studio.door.ticket}")
    client.cookies.clear()
    second = client.get(f"/?token={studio.door.ticket}")
    assert (first.status_code, second.status_code) == (303, 403)
    assert first.headers["set-cookie"].startswith(f"photodrag_{PORT}={TOKEN};")


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_had_without_the_cookie(studio: Studio, path: str) -> None:
    answer = studio.client(cookie=False).get(path)
    assert (answer.status_code, answer.text) == (403, NO_COOKIE)


@pytest.mark.parametrize(
    "cookies",
    [
        {f"photodrag_{PORT}": TOKEN[:-1]},
        {f"photodrag_{PORT}": f"{TOKEN}x"},
        {f"photodrag_{PORT}": ""},
        {f"photodrag_{PORT + 1}": TOKEN},
        {"photodrag": TOKEN},
        {"token": TOKEN},
    ],
)
def test_another_cookie_does_not_count(studio: Studio, cookies: dict[str, str]) -> None:
    client = studio.client(cookie=False)
    client.cookies.update(cookies)
    assert client.get("/").text == NO_COOKIE


def test_cookies_of_others_on_the_same_host_are_no_hindrance(studio: Studio) -> None:
    header = f'a=b; bad name=1; "; session={{"x":1}}; photodrag_{PORT}={TOKEN}; other="q'
    assert studio.client(cookie=False, Cookie=header).get("/").status_code == 200


@pytest.mark.parametrize(
    "query", ["token=", "token=x", f"token={TOKEN}x", f"token={TOKEN}&token=x", "token=%ff", "token=é"]
)
def test_a_wrong_token_is_refused_even_with_the_cookie(studio: Studio, query: str) -> None:
    answer = studio.client().get(f"/?{query}")
    assert (answer.status_code, answer.text) == (403, WRONG_TOKEN)
    assert "set-cookie" not in answer.headers


def test_a_token_counts_at_the_front_page_only(studio: Studio) -> None:
    for path in ("/static/main.js", "/region", "/nothing"):
        assert studio.client(cookie=False).get(f"{path}?token={TOKEN}").text == NO_COOKIE
    assert studio.client(cookie=False).post(f"/?token={TOKEN}").text == NO_COOKIE


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", f"evil.example:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}", f"localhost.evil:{PORT}"),
        *(f"127.0.0.1:{PORT}.evil.example", f"127.0.0.1:{PORT}:{PORT}", f"0.0.0.0:{PORT}", f"::1:{PORT}"),
        *(f"[::2]:{PORT}", f"127.1:{PORT}", f"2130706433:{PORT}", f"127.0.0.1@evil.example:{PORT}", "127.0.0.1:"),
    ],
)
def test_a_foreign_name_is_refused_though_the_cookie_is_right(studio: Studio, host: str) -> None:
    answer = studio.client(Host=host, Origin=f"http://{host}").get("/")
    assert (answer.status_code, answer.text) == (403, WRONG_HOST)


@pytest.mark.parametrize("host", [f"127.0.0.1:{PORT}", f"localhost:{PORT}", f"LOCALHOST:{PORT}", f"[::1]:{PORT}"])
def test_the_names_of_this_machine_are_allowed(studio: Studio, host: str) -> None:
    answer = studio.client(cookie=False, Host=host, Origin=f"http://{host}", Cookie=f"photodrag_{PORT}={TOKEN}").get(
        "/"
    )
    assert answer.status_code == 200
    assert f"connect-src 'self' ws://{host};" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("host", "name", "known"),
    [
        ("192.168.1.5", "192.168.1.5:80", True),
        ("192.168.1.5", "192.168.1.5", True),
        ("192.168.1.5", "192.168.1.6", False),
        ("studio.home", "studio.home", True),
        ("0.0.0.0", "192.168.1.6", True),
        ("0.0.0.0", "evil.example", False),
        ("::", "[fe80::1]", True),
    ],
)
def test_the_host_that_was_given_is_known_too(host: str, name: str, known: bool) -> None:
    assert Door(TOKEN, 80, host).knows_host(name) is known


FOREIGN_ORIGINS = (
    "http://evil.example",
    "null",
    f"http://127.0.0.1:{PORT + 1}",
    f"https://127.0.0.1:{PORT}",
    f"{ORIGIN}.x",
    "",
)


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_what_changes_something_must_come_from_the_page(studio: Studio, origin: str) -> None:
    answer = studio.client(Origin=origin).post("/photos", content=b"x")
    assert (answer.status_code, answer.text) == (403, WRONG_PAGE)
    with pytest.raises(WebSocketDenialResponse) as denied, studio.client(Origin=origin).websocket_connect("/socket"):
        pass
    assert (denied.value.status_code, denied.value.text) == (403, WRONG_PAGE)
    assert studio.desk.log == [] and studio.arrived() == []


def test_two_origins_are_none(studio: Studio) -> None:
    client = studio.client(Origin="")
    answer = client.post("/photos", content=b"x", headers=[("Origin", ORIGIN), ("Origin", "http://evil.example")])
    assert answer.text == WRONG_PAGE


def test_localhost_and_the_number_are_different_origins(studio: Studio) -> None:
    answer = studio.client(Origin=f"http://localhost:{PORT}").post("/photos", content=b"x")
    assert answer.text == WRONG_PAGE


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
def test_the_browsers_word_that_another_site_asks_is_heard(studio: Studio, site: str) -> None:
    for path in (*PATHS, f"/?token={TOKEN}"):
        assert studio.client(Origin="", Sec_Fetch_Site=site).get(path).text == WRONG_PAGE


def test_the_socket_needs_the_cookie_and_the_name(studio: Studio) -> None:
    for client, sentence in (
        (studio.client(cookie=False), NO_COOKIE),
        (studio.client(Host=f"evil.example:{PORT}", Origin=f"http://evil.example:{PORT}"), WRONG_HOST),
    ):
        with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect("/socket"):
            pass
        assert denied.value.text == sentence


def test_no_other_address_is_a_socket(studio: Studio) -> None:
    with pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)), studio.client().websocket_connect("/photos"):
        pass


@pytest.mark.parametrize(
    ("method", "path", "cookie"),
    [
        *(("GET", path, True) for path in PATHS),
        *(("GET", path, False) for path in ("/", "/nothing")),
        ("POST", "/photos", True),
        ("DELETE", "/photos", True),
        ("GET", f"/?token={TOKEN}", False),
        ("OPTIONS", "/", True),
    ],
)
def test_every_answer_has_the_security_headers(studio: Studio, method: str, path: str, cookie: bool) -> None:
    answer = studio.client(cookie=cookie).request(method, path)
    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
    policy = answer.headers["content-security-policy"]
    for part in (
        "default-src 'none'",
        "script-src 'self';",
        "style-src 'self';",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ):
        assert part in policy
    assert "unsafe" not in policy and "*" not in policy
    assert answer.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in answer.headers
    assert "camera=()" in answer.headers["permissions-policy"]


def test_a_refused_host_is_not_repeated_in_the_policy(studio: Studio) -> None:
    answer = studio.client(Host="evil.example; script-src *").get("/")
    assert "evil" not in str(answer.headers) + answer.text


def test_tokens_are_long_and_new_each_time() -> None:
    tokens = {new_token() for _ in range(50)}
    assert len(tokens) == 50
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", token) for token in tokens)


def test_the_address_shows_the_token_and_the_other_one_the_ticket() -> None:
    door = Door(TOKEN, 8642, "::1", ticket="T")
    assert door.url == f"http://[::1]:8642/?token={TOKEN}"
    assert door.ticket_url == "http://[::1]:8642/?token=T"
    assert Door(TOKEN, 8642, "0.0.0.0").url == f"http://127.0.0.1:8642/?token={TOKEN}"
