"""What several photos of one call compute together, before each has its own run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from data.errors import OutputError, UsageError
from pipeline import stages
from pipeline.artifacts import StageStore
from pipeline.engine import Engine
from pipeline.fitting import ReadTools, align_photo, invert_face, read_tools
from pipeline.locks import run_lock
from pipeline.models import Models, set_up_arithmetic
from pipeline.progress import Console
from pipeline.run import open_setup, perceptual_of, run_folder
from pipeline.schema import RunConfig
from pipeline.together import Company, Member, batches, invert_side_by_side, tune_shared
from pipeline.work import FaceWork, computed_stages


def fits_together(config: RunConfig) -> bool:
    """Whether settings ask for inversions side by side, or for a tuning that all faces share."""
    return ("invert" in config.stages and config.invert.batch > 1) or shares_tuning(config)


def shares_tuning(config: RunConfig) -> bool:
    """Whether settings ask for a tuning that all faces share."""
    return "tune" in config.stages and config.tune.shared


def gather(config: RunConfig, photos: Sequence[Path], models: Models, console: Console) -> Company:
    """Align all photos, invert their faces side by side and tune them together, as far as the settings say so.

    Everything is stored in the photos' own run folders, where their runs find it. A photo that fails is left out; its
    own run tells why. Raises what would stop every photo, as a full disk does.
    """
    set_up_arithmetic(config)
    company, kept = Company(several=True), list[Member]()
    read: list[stages.Tools] = []

    def tools(member: Member) -> stages.Tools:
        if not read:
            read.append(read_tools(member.setup, Console(config.progress, quiet=True)))
        return read[0]

    for batch in batches(_members(config, photos, models, company), config.invert.batch):
        with _locked(batch) as members:
            if members:
                invert_side_by_side(members, partial(tools, members[0]), console)
            if shares_tuning(config):
                kept += [member for member in members if _inverted(member, partial(tools, member))]
    if shares_tuning(config):
        with _locked(kept) as members:
            company.keys = tune_shared(members, lambda: tools(members[0]), console)
    return company


def _members(config: RunConfig, photos: Sequence[Path], models: Models, company: Company) -> Iterator[Member]:
    """The faces of all photos, each photo aligned when its turn comes and its pixels forgotten afterwards."""
    perceptual, console = perceptual_of(config), Console(config.progress, quiet=True)
    for photo in photos:
        try:
            setup = open_setup(replace(config, photo=str(photo)), None, perceptual, models)
            store = StageStore(run_folder(setup))
            engine = Engine(store, console, computed_stages(config), config.resume, lambda _: None, company.fresh)
            with run_lock(store.root):
                aligned = align_photo(setup, engine)
        except OutputError:
            raise
        except Exception:  # noqa: BLE001  the photo's own run meets it again and tells it
            continue
        without_pixels = replace(setup, photo=None)
        for number, crop in enumerate(aligned.value.crops):
            yield Member(without_pixels, engine, FaceWork(number, crop, aligned=aligned))


@contextlib.contextmanager
def _locked(members: Sequence[Member]) -> Iterator[list[Member]]:
    """Those members whose run folder no other process uses, and exclusive use of their folders."""
    held: dict[Path, bool] = {}
    with contextlib.ExitStack() as locks:
        for member in members:
            root = member.engine.store.root
            if root not in held:
                try:
                    locks.enter_context(run_lock(root))
                    held[root] = True
                except UsageError:
                    held[root] = False
        yield [member for member in members if held[member.engine.store.root]]


def _inverted(member: Member, tools: ReadTools) -> bool:
    """Whether a face has its inversion, which is computed by itself where it is missing."""
    try:
        member.face.inverted = invert_face(member.setup, member.engine, member.face, tools, "invert")
    except OutputError:
        raise
    except Exception:  # noqa: BLE001  the photo's own run meets it again and tells it
        return False
    return True
