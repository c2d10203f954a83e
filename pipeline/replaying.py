"""`photodrag replay SIDECAR [PHOTO]`: a recipe's result made again, through the same settings, checks and stages.

A recipe becomes overrides, the user's own behind them; what they need beside (masks, the edits of before) is put into
the photo's run folder. Nothing else is written, and the recipe decides no path.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import ModelError, UsageError
from data.files import file_sha256
from pipeline.edits import PARTS, edits_json
from pipeline.folders import RECIPE_SUFFIX, effective, photo_folder
from pipeline.foreign_json import printable
from pipeline.quoting import quote_path, split_override
from pipeline.recipe import FILE_KEYS, HERE_ONLY, PATHS, FileFacts, Recipe, plain_edits, read_recipe
from pipeline.schema import RunConfig, compose
from pipeline.settings_text import differing_settings, override

if TYPE_CHECKING:
    from pipeline.models import Models
    from pipeline.run import RunOutcome

INPUTS = "inputs"
"""The folder in a run folder that holds what a recipe brings: masks and edits, named by their hashes."""
HASHED = ("generator.path", "perceptual.backbone_dir")
"""Paths that explain no difference, because what lies there is compared by its hash."""
OF_ANOTHER_PHOTO = ("align.face", "align.quad")
"""Settings that mean the recorded photo's own pixels or faces, and are left out on another one."""


@dataclass(frozen=True, eq=False, slots=True)
class Replay:
    """What a replay is about to do: the photo, the overrides that make it, and what is said before it begins.

    brought: the files that the overrides name in the run folder, by path.
    """

    recipe: Recipe
    photo: Path
    same_photo: bool
    given: tuple[str, ...]
    overrides: tuple[str, ...]
    other_models: bool
    brought: Mapping[Path, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def prepare(self, config: RunConfig, models: Models) -> list[str]:
        """Check the models, then write what the recipe brings into the run folder; what differs of the models.

        Raises as `check_models`, and OutputError when the disk refuses.
        """
        differences = self.check_models(config, models)
        self._bring()
        return differences

    def _bring(self) -> None:
        from pipeline.artifacts import ensure_folder, write_bytes

        for path, content in self.brought.items():
            ensure_folder(path.parent)
            write_bytes(path, content)

    def check_models(self, config: RunConfig, models: Models) -> list[str]:
        """Compare the models of `config` with the recorded ones; what differs, with `--other-models`.

        Raises ModelError when one differs or is missing and other models are not allowed.
        """
        from pipeline.models import choose_perceptual, pick_device
        from pipeline.recorded import differing_models, model_facts

        generator = models.generator(config.generator, pick_device(config.device))
        here = model_facts(config, generator, choose_perceptual(config.perceptual))
        differences = differing_models(self.recipe.models, here)
        if differences and not self.other_models:
            raise ModelError(
                f"{self.recipe.path} was made with other models: {printable('; '.join(differences))}: give the "
                "recorded ones (generator.path=FILE), or --other-models to take these."
            )
        return differences

    def run(self, config: RunConfig, models: Models, differences: Sequence[str] = ()) -> tuple[RunOutcome, str]:
        """Make the result, and say whether it is the recorded one; differences: of the models, as `prepare` told."""
        from pipeline.delivery import Deliveries, Inputs
        from pipeline.run import run

        # The picture beside the recipe may be the only copy of the recorded result.
        picture = self.recipe.path.with_name(self.recipe.path.name.removesuffix(RECIPE_SUFFIX))
        deliveries = Deliveries(Inputs([self.recipe.path, picture]))
        outcome = run(config, None, models, None, None, deliveries)
        return outcome, self._verdict(outcome, [printable(text) for text in differences])

    def _verdict(self, outcome: RunOutcome, differences: Sequence[str]) -> str:
        if not self.same_photo:
            return "replay: the edits were made on another photo, so there is no recorded result to compare with"
        if not outcome.results or outcome.manifest.get("stages", [{}])[-1].get("stage") != "blend":
            return "replay: nothing to compare, because this run does not end with blend"
        if file_sha256(outcome.results[0]) == self.recipe.result.sha256:
            reused = all(entry["reused"] for entry in outcome.manifest["stages"])
            how = " (from finished stages; resume=false computes them anew)" if reused else ""
            return f"replay: the result is bit for bit the recorded one{how}"
        reasons = [*differences, *self._other_surroundings(outcome.manifest)]
        because = f": {'; '.join(reasons)}" if reasons else ""
        return f"replay: the result differs from the recorded one{because}"

    def _other_surroundings(self, manifest: Mapping[str, Any]) -> list[str]:
        """What else is not as it was: settings that were given, versions, threads, company."""
        others = [text for text in effective(self.given) if split_override(text)[1] not in HASHED]
        found = [f"{text} was given" for text in others]
        for name, then in self.recipe.versions.items():
            now = manifest["versions"].get(name)
            if str(now) != then:
                found.append(f"{printable(name)} {printable(then)} then, {now} now")
        if self.recipe.threads and manifest["threads"] != self.recipe.threads:
            found.append(f"{self.recipe.threads} threads then, {manifest['threads']} now")
        if self.recipe.tuned_with:
            found.append(f"it was tuned together with other faces ({self.recipe.tuned_with}), and now alone")
        return found


def open_replay(recipe_path: str, photos: Sequence[str], given: Sequence[str], other_models: bool) -> Replay:
    """Read a recipe, find its photo and its files, and put the overrides together; nothing is written yet.

    given: the user's overrides in Hydra's grammar, which win over the recorded settings; a choice of a group
    (`edit=frown`) drops all that is recorded of it. Raises UsageError in one sentence.
    """
    recipe = read_recipe(Path(recipe_path))
    keys = _given_keys(given)
    photo, same = _find_photo(recipe, photos)
    settings = {
        key: value
        for key, value in _recorded(recipe, same).items()
        if key not in keys and not any(key.startswith(f"{group}.") for group in keys)
    }
    folder = _run_folder(given, photo)
    replay = Replay(recipe, photo, same, tuple(given), (), other_models)
    texts = [f"photo={quote_path(str(photo))}", *(override(key, value) for key, value in settings.items())]
    files, brought = _files(replay, keys, folder)
    if not keys & {"generator", "generator.path", "generator.name"}:
        texts.append(_generator(recipe, photo))
    texts += [f"{key}={quote_path(str(path))}" for key, path in files.items()]
    notes = (_transfer_note(recipe, photo),) if not same else ()
    return replace(replay, overrides=(*texts, *given), brought=brought, notes=notes)


def _given_keys(given: Sequence[str]) -> set[str]:
    keys = {split_override(text)[1] for text in given}
    for key, why in {
        "from_run": "a recipe is made from the photo on",
        "experiment": "its settings would be hidden by the recorded ones",
    }.items():
        if key in keys:
            raise UsageError(f"photodrag replay cannot be given {key.removesuffix('_run')}=: {why}; leave it out")
    return keys


def _find_photo(recipe: Recipe, photos: Sequence[str]) -> tuple[Path, bool]:
    """(the photo, whether it is the recorded one): the given one, or the one of that name beside the recipe."""
    name = printable(recipe.photo.name)
    if len(photos) > 1:
        raise UsageError(f"photodrag replay is given {len(photos)} photos: allowed is one behind the recipe")
    if photos:
        path = Path(photos[0])
        if not path.is_file():
            raise UsageError(f"photo is {photos[0]}, which is no file: give the photo {name}, or another one")
        return path, _sha256(path) == recipe.photo.sha256
    path = recipe.path.parent / recipe.photo.name
    if not path.is_file():
        raise UsageError(
            f"The photo {name} is not beside {recipe.path}: give it, as in photodrag replay {recipe.path} PHOTO"
        )
    if _sha256(path) != recipe.photo.sha256:
        raise UsageError(
            f"{path} is not the photo that {recipe.path} was made from (its sha256 differs): give that photo, or name "
            "this one behind the recipe to make the edits on it"
        )
    return path, True


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error}): give a file that you may open") from error


def _recorded(recipe: Recipe, same_photo: bool) -> dict[str, Any]:
    """The recorded settings that differ from this photodrag's defaults, less paths and what is of another photo."""
    settings = differing_settings(dataclasses.asdict(recipe.config))
    skipped = {*HERE_ONLY, *PATHS, "edit.undo", "generator.name"} - {"invert.mask"}
    if not same_photo:
        skipped |= {f"edit.{part}" for part in (*PARTS, "points")}
        if recipe.config.align.quad is not None:
            skipped |= {*OF_ANOTHER_PHOTO, "align.method"}
        elif recipe.config.align.face != "all":
            skipped.add("align.face")
    found = {key: value for key, value in settings.items() if key not in skipped}
    if "perceptual" in recipe.models:
        found["perceptual.name"] = recipe.models["perceptual"]["name"]
    if not found.get("threads") and 0 < recipe.threads <= (os.cpu_count() or 1):
        found["threads"] = recipe.threads  # sums over another number of threads round otherwise
    return found


def _run_folder(given: Sequence[str], photo: Path) -> Path:
    outs = [text for text in given if split_override(text)[1] == "out"]
    return photo_folder(compose(outs).out, photo.stem, _sha256(photo))


def _generator(recipe: Recipe, photo: Path) -> str:
    """The override for the recorded generator: by its name, or its file beside the recipe or the photo."""
    facts = recipe.models["generator"]
    if facts["name"] != "file":
        return override("generator.name", facts["name"])
    for folder in (recipe.path.parent, photo.parent):
        path = folder / facts["file"]
        if path.is_file() and _sha256(path) == facts["sha256"]:
            return f"generator.path={quote_path(str(path))}"
    raise UsageError(
        f"{recipe.path} was made with the generator {printable(facts['file'])} (sha256 {facts['sha256'][:16]}), which "
        "is not beside it: give it with generator.path=FILE"
    )


def _files(replay: Replay, keys: set[str], folder: Path) -> tuple[dict[str, Path], dict[Path, bytes]]:
    """(paths by setting, contents to write by path): masks, the photo of a pose, and the edits of before."""
    recipe, files, brought = replay.recipe, dict[str, Path](), dict[Path, bytes]()
    for key in FILE_KEYS:
        facts = recipe.files.get(key)
        # Masks are in the pixels of the recorded photo, and a pose comes with the edits of another photo's row.
        if facts is None or keys & {key, key.partition(".")[0]} or not replay.same_photo:
            continue
        beside = _beside(recipe, facts)
        if beside is not None:
            files[key] = beside
        elif facts.content is not None:
            suffix = Path(facts.name).suffix.lower()
            known = suffix in (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
            files[key] = folder / INPUTS / f"{facts.sha256[:16]}{suffix if known else '.png'}"
            brought[files[key]] = facts.content
        else:
            raise UsageError(
                f"{recipe.path} needs the picture {printable(facts.name)} (sha256 {facts.sha256[:16]}), which is not "
                f"beside it: give it with {key}=FILE"
            )
    row = recipe.before if replay.same_photo else recipe.edits
    if row and "edit.replay" not in keys:
        content = edits_json(plain_edits(row, _likes(recipe, row)))
        path = folder / INPUTS / f"{hashlib.sha256(content).hexdigest()[:16]}.edits.json"
        files["edit.replay"], brought[path] = path, content
    return files, brought


def _beside(recipe: Recipe, facts: FileFacts) -> Path | None:
    """The recorded file where one of its name and hash lies beside the recipe."""
    path = recipe.path.absolute().parent / facts.name
    return path if path.is_file() and _sha256(path) == facts.sha256 else None


def _likes(recipe: Recipe, row: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The photos whose poses a row of edits takes, by SHA-256; they must lie beside the recipe."""
    found = {}
    for told in row:
        if told.get("like") is not None:
            path = _beside(recipe, FileFacts(told["like"], told["like_sha256"]))
            if path is None:
                raise UsageError(
                    f"{recipe.path} takes a pose from the photo {printable(told['like'])} (sha256 "
                    f"{told['like_sha256'][:16]}): put it beside the recipe"
                )
            found[told["like_sha256"]] = str(path)
    return found


def _transfer_note(recipe: Recipe, photo: Path) -> str:
    left = [key for key in recipe.files if key != "edit.like"]
    left += [key for key in OF_ANOTHER_PHOTO if getattr(recipe.config.align, key[6:]) not in (None, "largest", "all")]
    without = f"; {', '.join(left)} belong to the recorded photo and are left out" if left else ""
    return (
        f"replay: {photo} is not the recorded {printable(recipe.photo.name)}: its edits are made at the same places "
        f"of this photo's face{without}"
    )
