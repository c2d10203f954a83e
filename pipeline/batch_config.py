"""Settings of `photodrag batch`: who computes (`executor`), and what is done with many photos (`batch`).

None of them changes what a photo's result is, so none is part of a stage's key or of a work item's hash.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from typing import ClassVar

from data.errors import UsageError
from pipeline.validation import check_fields, knob

EXECUTORS = ("local", "ray")
"""Who can compute the photos of a batch; each has a file in `conf/executor/`."""

NAMES = "{stem}_edited{suffix}"
NAME_PARTS = ("stem", "suffix", "parent", "sha8", "number")
"""What `batch.names` may hold between braces."""


@dataclass(frozen=True, slots=True)
class ExecutorConfig:
    """Who computes the photos of a batch: processes of this machine, or a Ray cluster.

    `workers` 0: as many as share out the cores. `retries`: new tries of a photo whose worker died. `address`: of a
    running Ray cluster. `photos`: how they reach Ray's workers, by `path` on storage that all share or as `bytes`.
    """

    KEY: ClassVar[str] = "executor"
    name: str = knob("local", choices=EXECUTORS)
    workers: int = knob(0, 0, 4096)
    retries: int = knob(2, 0, 100)
    address: str | None = None
    photos: str = knob("path", choices=("path", "bytes"))

    def __post_init__(self) -> None:
        check_fields(self, self.KEY)


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """What a batch does with its photos as a whole.

    `names`: the pattern of the results' names. `shard`: `i/n`, the i-th of n parts. `max_failures` 0: never stop.
    `keep`: what stays of the run folders of photos that are done.
    """

    KEY: ClassVar[str] = "batch"
    names: str = NAMES
    shard: str | None = None
    max_failures: int = knob(0, 0, 10_000_000)
    page_photos: int = knob(200, 1, 10000)
    keep: str = knob("all", choices=("all", "results"))

    def __post_init__(self) -> None:
        check_fields(self, self.KEY)
        check_names(self.names)
        if self.shard is not None:
            read_shard(self.shard)


def read_shard(text: str) -> tuple[int, int]:
    """(i, n) of `i/n`, 1 <= i <= n; UsageError for anything else."""
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip(), re.ASCII)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count:
        raise UsageError(f"batch.shard is {text}: allowed is i/n with i from 1 to n, as in shard=3/8, or null")
    return number, count


def check_names(pattern: str) -> None:
    """Raise UsageError for a pattern of names that could not name a file for each photo."""
    allowed = f"allowed are {', '.join(f'{{{part}}}' for part in NAME_PARTS)} and letters, as in {NAMES!r}"
    try:
        parsed = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise UsageError(f"batch.names is {pattern}, which cannot be read ({error}): {allowed}") from error
    fields = [(name, spec, conversion) for _, name, spec, conversion in parsed if name is not None]
    for name, spec, conversion in fields:
        if name not in NAME_PARTS or spec or conversion:
            raise UsageError(f"batch.names is {pattern}, which holds {{{name}}}: {allowed}")
    if not {"stem", "sha8", "number"} & {name for name, _, _ in fields}:
        raise UsageError(f"batch.names is {pattern}, the same name for every photo: put {{stem}} into it")
    if any(sign in "".join(text for text, *_ in parsed) for sign in '/\\<>:"|?*\0'):
        raise UsageError(f"batch.names is {pattern}, which is no file name: {allowed}; save=FOLDER says where")
    if not pattern.endswith("{suffix}"):
        raise UsageError(f"batch.names is {pattern}: it must end in {{suffix}}, so that the name tells the format")
