"""Attacks by requests: without the token, from a foreign page, after the token, and at odd addresses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from urllib.parse import quote

from benchmarks.studio_target import MARKER, Answer, Attack, Found, Target, asking, messages_of, region, upload

FOREIGN = "http://evil.example"
HOSTS = (
    *("127.0.0.1", "127.0.0.1:1", "0:{port}", "2130706433:{port}"),
    *("localhost.evil.example:{port}", "127.0.0.1:{port}.evil.example"),
)


# A program of the machine, or a page, without the cookie ------------------------------------------------------------


def without_cookie() -> Iterator[Attack]:
    group = "without the token"
    paths = {
        "the page": "/",
        "a script of the page": "/static/index.html",
        "a picture": "/pictures/0123456789abcdef",
        "a download": "/downloads/0123456789abcdef",
        "an address that there is none of": "/nothing",
    }
    for name, path in paths.items():
        yield asking(group, name, lambda t, path=path: t.ask("GET", path, t.own("Cookie")))  # type: ignore[misc]
    yield asking(group, "a part of the photo", lambda t: t.ask("GET", region(t), t.own("Cookie")))
    yield Attack(group, "an upload", lambda t: upload(t, t.photo, t.own("Cookie")))
    yield asking(group, "the socket", lambda t: t.handshake(t.own("Cookie")))
    yield asking(group, "a wrong token", lambda t: t.ask("GET", f"/?token={'x' * len(t.token)}", t.own("Cookie")))
    yield asking(group, "an empty token", lambda t: t.ask("GET", "/?token=", t.own("Cookie")))
    yield asking(
        group, "a token less its last letter", lambda t: t.ask("GET", f"/?token={t.token[:-1]}", t.own("Cookie"))
    )
    yield asking(
        group, "a token of other letters than ASCII", lambda t: t.ask("GET", "/?token=%ff%c3%a9", t.own("Cookie"))
    )
    yield asking(
        group, "two tokens, one of them right", lambda t: t.ask("GET", f"/?token=x&token={t.token}", t.own("Cookie"))
    )
    yield asking(
        group,
        "the right token at another address",
        lambda t: t.ask("GET", f"{region(t)}&token={t.token}", t.own("Cookie")),
    )
    yield asking(group, "a wrong cookie", lambda t: t.ask("GET", "/", t.own(Cookie=f"photodrag_{t.port}=x")))
    yield asking(group, "an empty cookie", lambda t: t.ask("GET", "/", t.own(Cookie=f"photodrag_{t.port}=")))
    yield asking(
        group,
        "the cookie of a studio at another port",
        lambda t: t.ask("GET", region(t), t.own(Cookie=f"photodrag_{t.port + 1}={t.token}")),
    )


# A foreign page in a browser that has the cookie --------------------------------------------------------------------


def foreign_pages() -> Iterator[Attack]:
    group = "a foreign page, with the cookie"
    rebound = "evil.example:{port}"

    def renamed(host: str) -> Callable[[Target], Answer]:
        return lambda t: t.ask("GET", region(t), t.own(Host=host.format(port=t.port), Origin=FOREIGN))

    yield asking(group, "a name that was rebound to 127.0.0.1", renamed(rebound))
    yield asking(
        group,
        "a rebound name that says it is its own origin",
        lambda t: t.ask("GET", region(t), t.own(Host=f"evil.example:{t.port}", Origin=f"http://evil.example:{t.port}")),
    )
    yield asking(
        group,
        "the socket under a rebound name",
        lambda t: t.handshake(t.own(Host=f"evil.example:{t.port}", Origin=f"http://evil.example:{t.port}")),
    )
    for host in HOSTS:
        yield asking(group, f"the Host {host}", lambda t, host=host: _hosted(t, host))  # type: ignore[misc]
    yield asking(
        group,
        "two Hosts",
        lambda t: t.ask("GET", region(t), [*t.own().items(), ("Host", f"evil.example:{t.port}")]),
    )
    yield asking(group, "no Host", lambda t: t.ask("GET", region(t), t.own("Host"), version="HTTP/1.0"))
    yield asking(
        group,
        "a foreign Host beside X-Forwarded-Host",
        lambda t: t.ask("GET", region(t), t.own(Host="evil.example", X_Forwarded_Host=t.host)),
    )
    for name, origin in (
        ("a foreign Origin", FOREIGN),
        ("the Origin null", "null"),
        ("the Origin of another port", "http://127.0.0.1:1"),
        ("an Origin that begins like the page's", "{origin}.evil.example"),
        ("the page's Origin with https", "https://127.0.0.1"),
    ):
        given = lambda t, origin=origin: origin.format(origin=t.origin)  # type: ignore[misc]  # noqa: E731
        yield Attack(group, f"an upload with {name}", lambda t, g=given: upload(t, t.photo, t.own(Origin=g(t))))  # type: ignore[misc]
        yield asking(group, f"the socket with {name}", lambda t, g=given: t.handshake(t.own(Origin=g(t))))  # type: ignore[misc]
    yield Attack(group, "an upload without Origin", lambda t: upload(t, t.photo, t.own("Origin")))
    yield asking(group, "the socket without Origin", lambda t: t.handshake(t.own("Origin")))
    yield Attack(
        group,
        "a form that sends a photo",
        lambda t: upload(t, t.photo, t.own(Origin=FOREIGN, Content_Type="text/plain", Sec_Fetch_Site="cross-site")),
    )
    for site in ("cross-site", "same-site"):
        yield asking(
            group,
            f"a picture element, {site}",
            lambda t, site=site: t.ask("GET", region(t), t.own("Origin", Sec_Fetch_Site=site)),  # type: ignore[misc]
        )
    yield Attack(group, "asking for leave to read across origins", _preflight)
    yield Attack(group, "the page in a frame", _framed)


def _hosted(target: Target, host: str) -> Answer:
    return target.ask("GET", region(target), target.own("Origin", Host=host.format(port=target.port)))


def _preflight(target: Target) -> Found:
    headers = target.own("Cookie", Origin=FOREIGN, Access_Control_Request_Method="POST")
    answer = target.ask("OPTIONS", "/photos", headers)
    leave = answer.header("Access-Control-Allow-Origin")
    return f"{answer.told}; leave: {leave or 'none'}", bool(leave) or 0 < answer.status < 400


def _framed(target: Target) -> Found:
    answer = target.ask("GET", "/", target.own("Origin"))
    policy = answer.header("Content-Security-Policy")
    kept_out = "frame-ancestors 'none'" in policy and answer.header("X-Frame-Options") == "DENY"
    return "frame-ancestors 'none', X-Frame-Options: DENY" if kept_out else "may be framed", not kept_out


# The token's ways out -----------------------------------------------------------------------------------------------


def leaks() -> Iterator[Attack]:
    group = "the token and the page"
    yield Attack(group, "scripts reading the cookie, or foreign pages sending it", _cookie_flags)
    yield Attack(group, "the token staying in the address bar", _address_bar)
    yield Attack(group, "a redirect to another site", _open_redirect)
    yield Attack(group, "the token in an answer", _token_in_answers)
    yield Attack(group, "scripts, frames or servers of others in the page", _policy)
    yield Attack(group, "the server telling what it runs on", _server_details)
    yield Attack(group, "a photo kept in the browser's cache under /region", _cached)


def _welcome(target: Target, more: str = "") -> Answer:
    return target.ask("GET", f"/?token={target.token}{more}", {"Host": target.host})


def _cookie_flags(target: Target) -> Found:
    cookie = _welcome(target).header("Set-Cookie")
    flags = cookie.partition(";")[2].strip()
    return flags, not ("HttpOnly" in flags and "SameSite=Strict" in flags and "Domain" not in flags)


def _address_bar(target: Target) -> Found:
    answer = _welcome(target)
    place = answer.header("Location")
    bare = answer.status == 303 and place == "/" and answer.header("Referrer-Policy") == "no-referrer"
    return f"{answer.status} to {place}, Referrer-Policy: {answer.header('Referrer-Policy')}", not bare


def _open_redirect(target: Target) -> Found:
    place = _welcome(target, f"&next={quote(FOREIGN)}").header("Location")
    return f"to {place}", place != "/"


def _token_in_answers(target: Target) -> Found:
    paths = ["/", "/nothing", f"/nothing?token={target.token}", "/static/index.html", region(target)]
    answers = [target.ask("GET", path, target.own("Origin")) for path in paths]
    with target.talk() as page:
        told = json.dumps(messages_of(page))
    leaked = any(target.token in answer.text or target.token in str(answer.headers) for answer in answers)
    return f"in none of {len(answers) + 1} answers", leaked or target.token in told


def _policy(target: Target) -> Found:
    policy = target.ask("GET", "/", target.own("Origin")).header("Content-Security-Policy")
    parts = dict(part.strip().partition(" ")[::2] for part in policy.split(";"))
    closed = (
        parts.get("default-src") == "'none'"
        and parts.get("script-src") == "'self'"
        and parts.get("base-uri") == parts.get("form-action") == "'none'"
        and not {"'unsafe-inline'", "'unsafe-eval'", "*", "http:", "https:"} & set(policy.replace(";", " ").split())
    )
    return policy or "no policy", not closed


def _server_details(target: Target) -> Found:
    answers = [target.ask("GET", path, target.own()) for path in ("/", "/nothing", "/%00")]
    told = [value for one in answers for value in (one.header("Server"), one.header("X-Powered-By")) if value]
    traced = any("Traceback" in one.text for one in answers)
    return ", ".join(told) or "nothing", bool(told) or traced


def _cached(target: Target) -> Found:
    kept = target.ask("GET", region(target), target.own()).header("Cache-Control")
    return kept or "nothing said", "no-store" not in kept


# Addresses ----------------------------------------------------------------------------------------------------------


def addresses() -> Iterator[Attack]:
    group = "addresses, with the cookie"
    up = "../" * 12
    tricks = {
        "up with ..": lambda t: f"/static/{up}{t.secret.as_posix().lstrip('/')}",
        "up with %2e%2e": lambda t: "/static/" + "%2e%2e/" * 12 + t.secret.as_posix().lstrip("/"),
        "up with %2e%2e%2f": lambda t: "/static/" + "%2e%2e%2f" * 12 + quote(t.secret.as_posix().lstrip("/"), safe=""),
        "up, quoted twice": lambda t: "/static/" + "%252e%252e%252f" * 12 + quote(t.secret.as_posix(), safe=""),
        "up with backslashes": lambda t: "/static/" + "..%5c" * 12 + quote(t.secret.as_posix(), safe=""),
        "an absolute path": lambda t: "/static/" + quote(t.secret.as_posix(), safe=""),
        "two slashes": lambda t: "/static//" + t.secret.as_posix().lstrip("/"),
        "a path for a picture": lambda t: "/pictures/" + quote(t.secret.as_posix(), safe=""),
        "a path for a download": lambda t: "/downloads/" + quote(t.secret.as_posix(), safe=""),
        "up for a download": lambda t: (
            "/downloads/" + "%2e%2e%2f" * 12 + quote(t.secret.as_posix().lstrip("/"), safe="")
        ),
        "a download by the file's name": lambda t: f"/downloads/{t.secret.name}",
        "a file of what arrives": lambda t: "/static/" + quote(t.inbox.as_posix(), safe=""),
        "a NUL": lambda t: "/static/index.html%00.png",
        "a NUL in an id": lambda t: "/pictures/abcd%00efgh",
        "the program itself": lambda t: "/static/..%2fserver.py",
        "the folder": lambda t: "/static/",
        "an id of 20000 letters": lambda t: "/pictures/" + "a" * 20_000,
        "an id of spaces and quotes": lambda t: "/downloads/%20%22%27%3b",
        "a session that is a path": lambda t: f"/region?session={quote(str(t.secret))}&which=result&x=0&y=0&w=8&h=8",
        "a file: address": lambda t: f"file://{t.secret.as_posix()}",
        "a part of 10^12 pixels": lambda t: region(t, "&x=0&y=0&w=1000000&h=1000000"),
        "a part with the scale nan": lambda t: region(t, "&x=0&y=0&w=9&h=9&scale=nan"),
        "a part with the scale 1e308": lambda t: region(t, "&x=0&y=0&w=9&h=9&scale=1e308"),
        "a part with a number of 5000 digits": lambda t: region(t, "&y=0&w=9&h=9&x=" + "9" * 5000),
        "a part of negative size": lambda t: region(t, "&x=0&y=0&w=-9&h=-9"),
    }
    for name, path in tricks.items():
        yield Attack(group, name, lambda t, path=path: _got(t.ask("GET", path(t), t.own())))  # type: ignore[misc]
    yield Attack(group, "a header line in an address", _split_answer)
    yield asking(group, "DELETE", lambda t: t.ask("DELETE", "/photos", t.own()))
    yield asking(group, "PUT to a static name", lambda t: t.ask("PUT", "/static/index.html", t.own(), b"x"))
    yield asking(group, "TRACE", lambda t: t.ask("TRACE", "/", t.own()))


def _got(answer: Answer) -> Found:
    return answer.told, MARKER in answer.text or 0 < answer.status < 400 or answer.status >= 500


def _split_answer(target: Target) -> Found:
    answer = target.ask("GET", "/nothing%0d%0aX-Injected:%20yes?a=%0d%0aX-Injected:%20yes", target.own())
    return answer.told, bool(answer.header("X-Injected")) or 0 < answer.status < 400
