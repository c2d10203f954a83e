"""What leaves for the photographer: the finished photo and its recipe, under a name that replaces no input of the run.

`save` says where: null is the run folder, `beside` the photo's own folder, a folder (one that exists, or a path that
ends in a slash) or one file. A photo `me.jpg` leaves as `me_edited.jpg` with `me_edited.jpg.photodrag.json` beside it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data.errors import OutputError, UsageError
from data.files import sync_folder
from data.photo_type import PhotoFormat, suffix_for, suffixes_of
from pipeline.edits import read_edits
from pipeline.folders import BESIDE, RECIPE_SUFFIX, names_folder
from pipeline.schema import RunConfig

EDITED_SUFFIX = "_edited"
MAX_STEM_BYTES = 190
"""Names may have 255 bytes, and behind the stem come `_edited`, a number, the suffix and that of the recipe."""
MOST_NUMBERS = 9999


def edited_name(stem: str, suffix: str, number: int = 1) -> str:
    """`<stem>_edited<suffix>`, or `<stem>_edited-<number><suffix>` from 2 on; a stem that is too long is cut."""
    while len(os.fsencode(stem)) > MAX_STEM_BYTES:
        stem = stem[:-1]
    return f"{stem}{EDITED_SUFFIX}{suffix if number == 1 else f'-{number}{suffix}'}"


def recipe_path(picture: Path) -> Path:
    """Where the recipe of a picture lies: the whole name counts, so that a.jpg and a.png have one each."""
    return picture.with_name(picture.name + RECIPE_SUFFIX)


class Inputs:
    """Files that a command reads; no name that leads to one of them is ever written to."""

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self._nodes: set[tuple[int, int]] = set()
        self._names: set[tuple[str, str]] = set()
        for path in paths:
            self._names |= {_place(path), _place(path.resolve())}
            with contextlib.suppress(OSError):
                found = path.stat()
                self._nodes.add((found.st_dev, found.st_ino))

    def holds(self, path: Path) -> bool:
        """Whether `path` is one of the files: by links of either kind, through `..`, or in other upper and lower case.

        Case counts for nothing even where the disk tells it apart, because the folder may move to one that does not.
        """
        if _place(path) in self._names:
            return True
        try:
            found = path.stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) in self._nodes

    def with_more(self, paths: Iterable[Path]) -> Inputs:
        """These files and further ones."""
        more = Inputs(paths)
        more._nodes |= self._nodes
        more._names |= self._names
        return more


def _place(path: Path) -> tuple[str, str]:
    """A file by its real folder and its name without case or way of composing letters."""
    return str(path.parent.resolve()), unicodedata.normalize("NFC", unicodedata.normalize("NFC", path.name).casefold())


def inputs_of(config: RunConfig) -> list[Path]:
    """The pictures and lists that a run's settings name; UsageError for a list of edits that cannot be read."""
    edit = config.edit
    poses = [told.get("like") for told in read_edits(edit)] if "edit" in config.stages else []
    given = (config.photo, config.invert.mask_path, edit.mask, edit.like, edit.replay, config.blend.mask, *poses)
    return [Path(path) for path in given if path is not None]


@dataclass(eq=False, slots=True)
class Deliveries:
    """What one command has saved so far, and what its runs read beside the settings of each (other photos, a recipe).

    What the command itself has written is never replaced by a later photo or job of it: that one gets a number.
    """

    inputs: Inputs = field(default_factory=Inputs)
    written: set[Path] = field(default_factory=set)


@dataclass(frozen=True, eq=False, slots=True)
class Destination:
    """Where a run's result is saved: `folder`, and the `name` of one file, or None for `<stem>_edited<suffix>`.

    run_folder: that of the run, or of the batch, whose lock is held while it is saved; files that are being written are
    named after it, so that what a killed run left of them is found and removed by the next.
    """

    folder: Path
    name: str | None
    stem: str
    on_exists: str
    inputs: Inputs
    written: set[Path]
    run_folder: Path

    def temporaries(self) -> list[Path]:
        """What a result and its recipe are called while they are written."""
        mark = hashlib.sha256(os.fsencode(self.run_folder.resolve())).hexdigest()[:16]
        return [self.folder / f".photodrag-{mark}-{part}.tmp" for part in ("recipe", "picture")]

    def candidates(self, suffix: str) -> Iterator[Path]:
        """The names in the order in which they are tried: the plain one, then -2, -3 and so on."""
        for number in range(1, MOST_NUMBERS + 1):
            if self.name is None:
                yield self.folder / edited_name(self.stem, suffix, number)
            else:
                path = Path(self.name)
                yield self.folder / (self.name if number == 1 else f"{path.stem}-{number}{path.suffix}")


def plan(
    config: RunConfig, photo: Path, format: PhotoFormat, run_folder: Path, deliveries: Deliveries
) -> Destination | None:
    """Where `save` puts the result of a photo, checked before anything long begins; None for the run folder alone.

    format: that of the result. Raises UsageError for a name that is an input, of another format or in the run folder,
    and for a folder that is missing or may not be written to.
    """
    if config.save is None:
        return None
    save, inputs = config.save, deliveries.inputs.with_more([*inputs_of(config), photo])
    if save == BESIDE or names_folder(save):
        folder, name = photo.parent if save == BESIDE else Path(save), None
    else:
        folder, name = Path(save).parent, Path(save).name
        _check_file(save, Path(save), format)
    folder = Path(os.path.abspath(folder))
    written = deliveries.written
    destination = Destination(folder, name, photo.stem, config.on_exists, inputs, written, run_folder)
    if run_folder.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise UsageError(
            f"save is {save}, which lies in the run folder {run_folder}, where photodrag keeps its own files: give "
            "another place, or save=null to leave the result there"
        )
    wanted = next(destination.candidates(suffix_for(format)))
    if name is not None or config.on_exists == "overwrite":
        _refuse_inputs(wanted, inputs)
    check_writable(save, folder)
    return destination


def _check_file(save: str, path: Path, format: PhotoFormat) -> None:
    if path.suffix.lower() not in suffixes_of(format):
        raise UsageError(
            f"save is {save}, and the result is a {format}: give a name that ends in {suffix_for(format)}, an existing "
            "folder, a folder with a slash behind it, or another blend.format"
        )
    if not path.parent.is_dir():
        raise UsageError(f"save is {save}, but there is no folder {path.parent}: create it, or give an existing one")


def _refuse_inputs(path: Path, inputs: Inputs) -> None:
    for one in (path, recipe_path(path)):
        if inputs.holds(one):
            raise UsageError(
                f"save would write {one}, which is a file that this command reads, and such a file is never written "
                "to: give another name with save="
            )


def check_writable(save: str, folder: Path) -> None:
    """Raise UsageError unless files can be made in `folder`, or it can be created."""
    there = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    if not there.is_dir():
        raise UsageError(f"save is {save}, but {there} is a file: give a folder or a file in one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"save is {save}, but nothing may be written in {there}: give another place with save=")


def deliver(content: bytes, suffix: str, recipe: Callable[[str], bytes], destination: Destination) -> Path | None:
    """Write a result and its recipe, both whole or neither; the path of the result, None when `on_exists=skip` skips.

    recipe: gives the recipe's file for the result's name. A name is taken when the result or its recipe is there, but
    for this very recipe without a result, which a killed run left: it gets its result.
    Raises UsageError where only an input could be written to, OutputError when the disk refuses.
    """
    with _saving(destination.folder):
        destination.folder.mkdir(parents=True, exist_ok=True)
        for temporary in destination.temporaries():
            temporary.unlink(missing_ok=True)
    for path in destination.candidates(suffix):
        own = path in destination.written
        half = _is_half(path, recipe(path.name)) and not destination.inputs.holds(recipe_path(path))
        if half and not own and not destination.inputs.holds(path):
            with _saving(path):
                _write_pair(destination, path, content, recipe(path.name), replace=True)
            destination.written.add(path)
            return path
        taken = os.path.lexists(path) or os.path.lexists(recipe_path(path))
        if destination.on_exists == "skip" and taken and not own:
            return None
        replace = destination.on_exists == "overwrite" and not own
        if replace:
            _refuse_inputs(path, destination.inputs)
        elif taken or destination.inputs.holds(path) or destination.inputs.holds(recipe_path(path)):
            continue
        with contextlib.suppress(FileExistsError), _saving(path):
            _write_pair(destination, path, content, recipe(path.name), replace)
            destination.written.add(path)
            return path
    raise OutputError(f"{MOST_NUMBERS} results have the name {destination.folder / suffix}: give another with save=.")


@contextlib.contextmanager
def _saving(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into one sentence; that a new name is taken by now is for the caller."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
        reason = "no space is left on its disk" if full else error.strerror or str(error)
        raise OutputError(
            f"The result cannot be saved as {path} ({reason}): mend that or give another place with save=, and run the "
            "same command again; the run folder has the result already."
        ) from error


def _is_half(path: Path, recipe: bytes) -> bool:
    """Whether a run was killed between giving this very recipe its name and its result's; other files are not ours."""
    beside = recipe_path(path)
    if os.path.lexists(path) or beside.is_symlink():
        return False
    try:
        return beside.is_file() and beside.stat().st_size == len(recipe) and beside.read_bytes() == recipe
    except OSError:
        return False


def _write_pair(destination: Destination, picture: Path, content: bytes, recipe: bytes, replace: bool) -> None:
    """Both files under temporary names first, so that a full disk leaves nothing, then under their own.

    The recipe comes first: a result without one would be taken for a photo when its folder is edited again.
    """
    pairs = [(recipe, recipe_path(picture)), (content, picture)]
    temporary = destination.temporaries()
    placed: list[Path] = []
    try:
        for name, (data, _) in zip(temporary, pairs, strict=True):
            with name.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        for name, (_, target) in zip(temporary, pairs, strict=True):
            if replace:
                os.replace(name, target)
            else:
                _place_new(name, target)
                placed.append(target)
        sync_folder(picture.parent)
    except BaseException:
        for target in placed:
            target.unlink(missing_ok=True)
        raise
    finally:
        for name in temporary:
            with contextlib.suppress(OSError):
                name.unlink(missing_ok=True)


def _place_new(source: Path, target: Path) -> None:
    """Give a file its name; FileExistsError when something has that name by now."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: the name is claimed first, then filled
        os.close(os.open(target, os.O_CREAT | os.O_EXCL, 0o666))
        os.replace(source, target)
