"""The recipe of a result, `<result>.photodrag.json`: all that is needed to make it again from the same photo.

JSON with sorted keys and without times, so that the same result has the same recipe. It holds no path of the machine:
files are told by name and SHA-256, and small masks travel in it. What is read from it is not trusted: names are names
of files beside it, settings pass the same checks as those of the command line, and nothing in it is run.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import UsageError
from pipeline.edits import Told, check_edit
from pipeline.foreign_json import quoted, read_json
from pipeline.quoting import PATH_WORDS
from pipeline.schema import RunConfig
from pipeline.validation import build, check_mapping

KIND, VERSION = "photodrag_recipe", 1
MOST_EDITS = 1000
MOST_MASK_BYTES = 256_000
"""Masks up to this size travel in the recipe."""
FILE_KEYS = ("invert.mask", "edit.mask", "edit.like", "blend.mask")
MODEL_KINDS = ("generator", "perceptual", "landmarks", "face_network")
HERE_ONLY = ("photo", "from_run", "out", "save", "on_exists", "progress", "resume", "executor", "batch")
"""Settings of the place where a result is made; a recipe does not set them."""
SIGNING = ("blend.c2pa_certificates", "blend.c2pa_key")
PATHS = (*HERE_ONLY[:4], "generator.path", "perceptual.backbone_dir", *FILE_KEYS, "edit.replay", *SIGNING)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NUMBERS = re.compile(r'\[\n\s+([^\[\]{}"]*?)\n\s*\]')


@dataclass(frozen=True, eq=False, slots=True)
class FileFacts:
    """A file by its plain name and SHA-256; `content` is the file itself where the recipe holds it."""

    name: str
    sha256: str
    content: bytes | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Recipe:
    """A recipe that was read and checked.

    config: the settings, without paths; edits: the row of edits as in edits.json, the last one the config's own where
    that asks for one; files by setting; models by kind, each name, file and sha256; versions and threads of the making.
    """

    path: Path
    photo: FileFacts
    result: FileFacts
    config: RunConfig
    edits: list[Told]
    files: dict[str, FileFacts]
    models: dict[str, dict[str, str]]
    versions: dict[str, str]
    threads: int
    tuned_with: int

    @property
    def before(self) -> list[Told]:
        """The edits that were made before the config's own; one after the pose of a photo has its path in `files`."""
        return self.edits[:-1] if self.config.edit.asks or "edit.like" in self.files else self.edits


def recipe_json(content: Mapping[str, Any]) -> bytes:
    """The file of a recipe: sorted, indented, with short lists of numbers on one line."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    text = _NUMBERS.sub(lambda match: f"[{' '.join(match[1].split())}]", text)
    # Names that are no Unicode hold lone surrogates, which become the escapes that JSON has for them.
    return (text + "\n").encode("utf-8", "backslashreplace")


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as nested dictionaries, each path replaced by what the setting is without one."""
    plain = {key: dict(value) if isinstance(value, Mapping) else value for key, value in config.items()}
    for key in PATHS:
        group, _, name = key.rpartition(".")
        owner = plain.get(group) if group else plain
        if isinstance(owner, dict) and name in owner and owner[name] not in PATH_WORDS.get(key, ()):
            owner[name] = "none" if key in PATH_WORDS else None
    for name in HERE_ONLY:
        plain.pop(name, None)
    return plain


def embedded(facts: Mapping[str, str], small: bool) -> dict[str, str]:
    """A file as a recipe tells it: name and SHA-256, and when `small` files may travel its content as base64."""
    told = {"name": facts["name"], "sha256": facts["sha256"]}
    if small:
        try:
            if os.path.getsize(facts["path"]) <= MOST_MASK_BYTES:
                content = Path(facts["path"]).read_bytes()
                if hashlib.sha256(content).hexdigest() == facts["sha256"]:
                    told["base64"] = base64.b64encode(content).decode("ascii")
        except OSError:
            pass  # it has gone since; its name and hash say which one it was
    return told


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file; UsageError, in one sentence, for one that is missing, damaged, newer or not to be trusted.

    Only the file itself is read, and nothing is written.
    """
    stored = _read_json(path)
    if not isinstance(stored, dict) or KIND not in stored:
        raise _damaged(path, f"it must hold '{KIND}': {VERSION}")
    version = stored[KIND]
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise _damaged(path, f"'{KIND}' must be {VERSION}")
    if version > VERSION:
        raise UsageError(
            f"{path} is a recipe of format {version}, and this photodrag reads format {VERSION}: a newer photodrag "
            "wrote it, so install that one"
        )
    if strange := sorted(set(_mapping(path, stored, "files")) - set(FILE_KEYS)):
        raise _damaged(path, f"files names {strange[0][:100]}; allowed are {', '.join(FILE_KEYS)}")
    files = {key: _file(path, facts, f"files.{key}") for key, facts in _mapping(path, stored, "files").items()}
    config, edits = _config(path, stored), _edits(path, stored)
    if not edits:
        raise _damaged(path, "'edits' is empty")
    return Recipe(
        path=path,
        photo=_file(path, stored.get("photo"), "photo"),
        result=_file(path, stored.get("result"), "result"),
        config=config,
        edits=edits,
        files=files,
        models=_models(path, stored),
        versions={str(key): str(value) for key, value in _mapping(path, stored, "versions").items()},
        threads=_count(path, stored, "threads"),
        tuned_with=_count(path, stored, "tuned_with"),
    )


def _damaged(path: Path, reason: str) -> UsageError:
    return UsageError(f"{path} is no recipe that can be replayed: {quoted(reason)}")


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"{path} is no file: give the .photodrag.json that lies beside a result")
    try:
        return read_json(path)
    except ValueError as error:
        raise _damaged(path, str(error)) from error


def _mapping(path: Path, stored: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = stored.get(key, {})
    if not isinstance(value, dict):
        raise _damaged(path, f"'{key}' must be an object")
    return value


def _count(path: Path, stored: Mapping[str, Any], key: str) -> int:
    value = stored.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 1_000_000:
        raise _damaged(path, f"'{key}' must be a count")
    return value


def _plain_name(value: Any) -> bool:
    """Whether a value is the name of a file in the same folder: no path, and nothing that leads out of it."""
    return (
        isinstance(value, str)
        and value not in ("", ".", "..")
        and len(value) <= 255
        and not set(value) & {"/", "\0", *({"\\", ":"} if os.name == "nt" else set())}
    )


def _known_word(value: Any) -> bool:
    """Whether a value has the form of a model's name; which names there are is for the settings to check."""
    return isinstance(value, str) and re.fullmatch(r"[\w.-]{1,100}", value, re.ASCII) is not None


def _file(path: Path, facts: Any, what: str) -> FileFacts:
    if not isinstance(facts, dict) or not _plain_name(facts.get("name")):
        raise _damaged(path, f"'{what}' must have the name of a file without any folder")
    sha256 = _sha256_of(path, facts, what)
    if facts.get("base64") is None:
        return FileFacts(facts["name"], sha256)
    try:
        content = base64.b64decode(facts["base64"], validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise _damaged(path, f"the content of '{what}' is no base64") from error
    if len(content) > MOST_MASK_BYTES or hashlib.sha256(content).hexdigest() != sha256:
        raise _damaged(path, f"the content of '{what}' is not what its sha256 says")
    return FileFacts(facts["name"], sha256, content)


def _sha256_of(path: Path, facts: Mapping[str, Any], what: str) -> str:
    value = facts.get("sha256")
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise _damaged(path, f"'{what}' must have a sha256 of 64 hexadecimal digits")
    return value


def _models(path: Path, stored: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    models = _mapping(path, stored, "models")
    if "generator" not in models or (strange := sorted(set(models) - set(MODEL_KINDS))):
        detail = "names no generator" if "generator" not in models else f"names {strange[0][:100]}"
        raise _damaged(path, f"'models' {detail}; allowed are {', '.join(MODEL_KINDS)}")
    found = {}
    for kind, facts in models.items():
        what = f"models.{kind}"
        if not isinstance(facts, dict) or not _plain_name(facts.get("file")) or not _known_word(facts.get("name")):
            raise _damaged(path, f"'{what}' must have a name and the name of a file without any folder")
        found[kind] = {"name": facts["name"], "file": facts["file"], "sha256": _sha256_of(path, facts, what)}
    return found


def _config(path: Path, stored: Mapping[str, Any]) -> RunConfig:
    """The settings, checked as those of the command line are; paths among them are refused."""
    settings = without_paths(_mapping(path, stored, "config"))
    if settings != _mapping(path, stored, "config"):
        raise _damaged(path, "'config' holds a path or a setting of a place, which a recipe may not set")
    generator = settings.get("generator")
    if isinstance(generator, dict) and generator.get("name") == "file":
        settings["generator"] = {}  # its file is told by the models, and its path is that of the machine that replays
    try:
        check_mapping(RunConfig, settings)
        return build(RunConfig, settings)
    except UsageError as error:
        raise _damaged(path, f"{error}") from error


def _edits(path: Path, stored: Mapping[str, Any]) -> list[Told]:
    """The row of edits as edits.json would hold it; the photo of a pose is a name with its SHA-256."""
    edits = stored.get("edits")
    if not isinstance(edits, list) or len(edits) > MOST_EDITS:
        raise _damaged(path, f"'edits' must be a list of at most {MOST_EDITS}")
    found: list[Told] = []
    for number, told in enumerate(edits, 1):
        own = {key: value for key, value in told.items() if key != "like_sha256"} if isinstance(told, dict) else told
        try:
            check_edit(own, f"edit {number} of {path}")
        except UsageError as error:
            raise _damaged(path, f"{error}") from error
        if own.get("like") is not None:
            if not _plain_name(own["like"]):
                raise _damaged(path, f"the photo of edit {number} must be the name of a file without any folder")
            own["like_sha256"] = _sha256_of(path, {"sha256": told.get("like_sha256")}, f"edit {number}")
        found.append(own)
    return found


def plain_edits(edits: Sequence[Told], likes: Mapping[str, str]) -> list[Told]:
    """Edits as edits.json holds them, the photo of each pose by its path in `likes` (by SHA-256)."""
    return [
        {
            **{key: value for key, value in told.items() if key != "like_sha256"},
            **({"like": likes[told["like_sha256"]]} if told.get("like") is not None else {}),
        }
        for told in edits
    ]
