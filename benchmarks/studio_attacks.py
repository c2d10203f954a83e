"""Attacks on a running studio: what a foreign page, another program or a mad page tries, and what comes of it.

An attack has succeeded when it got what it should not: judged by what came back, by what lies on the disk and by
whether the rightful page is still answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from websockets.exceptions import ConnectionClosed

from benchmarks.studio_contents import floods, messages, uploads
from benchmarks.studio_requests import addresses, foreign_pages, leaks, without_cookie
from benchmarks.studio_target import Attack, Target

ATTACKS: tuple[Attack, ...] = (
    *without_cookie(),
    *foreign_pages(),
    *leaks(),
    *addresses(),
    *uploads(),
    *messages(),
    *floods(),
)
"""Everything that is tried."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of an attack."""

    group: str
    name: str
    answer: str
    succeeded: bool


def run_attacks(target: Target, attacks: Sequence[Attack] | None = None) -> Iterator[Result]:
    """Every attack in turn; one after which the rightful page is not answered has succeeded, too."""
    for attack in ATTACKS if attacks is None else attacks:
        try:
            answer, succeeded = attack.run(target)
        except (OSError, ConnectionClosed) as error:
            answer, succeeded = f"connection closed ({type(error).__name__})", False
        if not target.is_well():
            answer, succeeded = f"{answer}; afterwards the page was not answered", True
        yield Result(attack.group, attack.name, answer, succeeded)
