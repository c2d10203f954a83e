"""Paths on the command line, written so that Hydra's grammar and OmegaConf's interpolation give them back unchanged.

Hydra would read `2024_01` as a number, `a,b` as a sweep and `${x}` as an interpolation; whoever names a photo means
none of these. Nothing here imports Hydra: the rules are those of its published override grammar.
"""

from __future__ import annotations

import os
import re

PATH_KEYS = (
    *("photo", "from", "from_run", "out", "save", "generator.path", "perceptual.backbone_dir"),
    *("invert.mask", "edit.mask", "edit.like", "edit.replay", "blend.mask"),
    *("blend.c2pa_certificates", "blend.c2pa_key"),
)
"""The settings whose value is a path, taken as it stands; only the bare word null keeps its meaning there."""

QUOTED_KEYS = (*PATH_KEYS, "batch.names")
"""Paths, and the other settings whose value is taken as it stands."""

PATH_WORDS = {"invert.mask": ("none", "face", "hull", "auto"), "save": ("beside",)}
"""Words that are no path where one is expected; several with commas between them are a sweep."""

RENAMED_KEYS = {"from": "from_run", "shard": "batch.shard", "max_failures": "batch.max_failures"}
"""Names of the command line that Python keeps for itself, or that are short for a setting."""

_OVERRIDE = re.compile(r"(?P<prefix>~|\+{0,2})(?P<key>[A-Za-z_$][\w$./@:-]*)=(?P<value>.*)", re.DOTALL)
_DELETION = re.compile(r"~[A-Za-z_$][\w$./@:-]*")


def looks_like_override(argument: str) -> bool:
    """Whether an argument has the shape of an override: key=value, +key=value, ++key=value, ~key=value or ~key."""
    return bool(_OVERRIDE.fullmatch(argument) or _DELETION.fullmatch(argument))


def split_override(argument: str) -> tuple[str, str, str]:
    """(prefix, key, value) of an argument that looks like an override; a deletion without value gives ''."""
    match = _OVERRIDE.fullmatch(argument)
    if match is None:
        return "~", argument.removeprefix("~"), ""
    return match["prefix"], match["key"], match["value"]


def escape_interpolation(text: str) -> str:
    """Text that OmegaConf resolves to `text`: each `${` becomes literal, the backslashes before it are doubled."""
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)


def quote(text: str) -> str:
    """`text` as a single-quoted value of Hydra's override grammar.

    Backslashes are doubled only where a quote follows them, which includes the closing one.
    """
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", text)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"'{escaped}{escaped[len(escaped) - trailing :]}'"


def quote_path(path: str) -> str:
    """A path as a Hydra value that arrives in the config exactly as given."""
    return quote(escape_interpolation(path))


def prepare_override(argument: str) -> str:
    """An override in Hydra's grammar: `from` gets its internal name, and the value of a path setting is quoted.

    `experiment=NAME` is taken as `+experiment=NAME`, since no experiment is on by default. A leading `~/` in a path is
    the home folder, because a shell leaves it alone behind an equals sign.
    """
    if not looks_like_override(argument):
        return argument
    prefix, key, value = split_override(argument)
    if key == "experiment" and not prefix:
        return f"+{argument}"
    if key not in QUOTED_KEYS and key in RENAMED_KEYS:
        return f"{prefix}{RENAMED_KEYS[key]}={value}"
    if key not in QUOTED_KEYS or prefix == "~" or set(value.split(",")) <= set(PATH_WORDS.get(key, ())):
        return argument
    if value != "null":
        value = quote_path(os.path.expanduser(value) if value.startswith("~/") else value)
    return f"{prefix}{RENAMED_KEYS.get(key, key)}={value}"
