"""The results of a batch on their way from the run folders to where `save` says, each once."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import OutputError
from pipeline.batch_names import Target
from pipeline.delivery import Destination, Inputs, deliver, recipe_path
from pipeline.ledger import Ledger
from pipeline.photo_lists import ListedPhoto
from pipeline.recipe import recipe_json


class NoSpaceError(OutputError):
    """The disk that results are saved on is full, which concerns every photo."""


@dataclass(eq=False, slots=True)
class Saving:
    """Where a batch saves: the targets by photo, and what it has saved before.

    inputs: makes the files that are never written to, when the first result leaves. pattern: of the names.
    """

    targets: dict[ListedPhoto, Target]
    pattern: str
    on_exists: str
    ledger: Ledger
    inputs: Callable[[], Inputs]
    _inputs: Inputs | None = None
    _written: set[Path] = field(default_factory=set)

    def saved_at(self, photo: ListedPhoto, sha256: str, config: str) -> Path | None:
        """Where an earlier call saved this result, None when it did not or when it is not there any more."""
        path = self.ledger.saved.get(self._of(photo, sha256, config))
        return Path(path) if path is not None and os.path.lexists(path) else None

    def save(self, photo: ListedPhoto, sha256: str, config: str, result: Path) -> Path | None:
        """Save a finished photo and its recipe, unless they are there; None when `on_exists=skip` left it out.

        Raises OutputError when it cannot be written, NoSpaceError when nothing more can be; OSError or ValueError when
        the run folder does not hold what it should.
        """
        saved = self.saved_at(photo, sha256, config)
        if saved is not None:
            return saved
        content, recipe = result.read_bytes(), json.loads(recipe_path(result).read_bytes())
        destination = self._destination(photo, sha256, result.suffix)

        def recipe_for(name: str) -> bytes:
            of_photo = {**recipe["photo"], "name": os.path.basename(photo.path)}
            return recipe_json({**recipe, "photo": of_photo, "result": {**recipe["result"], "name": name}})

        saved = _lies_there(destination, result.suffix, content, recipe)
        if saved is None:
            try:
                saved = deliver(content, result.suffix, recipe_for, destination)
            except OutputError as error:
                cause = error.__cause__
                if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
                    raise NoSpaceError(str(error)) from error
                raise
        if saved is not None:
            self.ledger.add_saved(self._of(photo, sha256, config), saved)
        return saved

    def wanted(self, photo: ListedPhoto, sha256: str, suffix: str) -> Path:
        """The path at which a result would be saved if nothing was there."""
        return self.targets[photo].folder / self.targets[photo].name(sha256, suffix)

    def _of(self, photo: ListedPhoto, sha256: str, config: str) -> tuple[str, ...]:
        return photo.path, sha256, config, str(self.targets[photo].folder), self.pattern

    def _destination(self, photo: ListedPhoto, sha256: str, suffix: str) -> Destination:
        if self._inputs is None:
            self._inputs = self.inputs()
        wanted = self.wanted(photo, sha256, suffix)
        inputs, written, mark = self._inputs, self._written, self.ledger.folder
        return Destination(wanted.parent, wanted.name, photo.stem, self.on_exists, inputs, written, mark)


def _lies_there(destination: Destination, suffix: str, content: bytes, recipe: dict[str, Any]) -> Path | None:
    """The very result where it lies already, saved by a call that was killed before it could note that.

    Of one that was killed between result and recipe the lone half is removed, so that both are written again.
    """
    for path in destination.candidates(suffix):
        if not os.path.lexists(path) and not os.path.lexists(recipe_path(path)):
            return None
        if destination.inputs.holds(path) or destination.inputs.holds(recipe_path(path)):
            continue
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads(recipe_path(path).read_bytes())
            same = all(told[part]["sha256"] == recipe[part]["sha256"] for part in ("photo", "result"))
            if same and not os.path.lexists(path):
                recipe_path(path).unlink()
                return None
            if same and path.read_bytes() == content:
                return path
    return None
