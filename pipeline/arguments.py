"""What the words of the command line mean: verb, photo, overrides and options, before any config is composed."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from data.errors import UsageError
from pipeline.folders import sample_photo
from pipeline.quoting import looks_like_override, prepare_override, quote_path, split_override
from pipeline.studio.options import StudioOptions, split_studio_options
from pipeline.validation import did_you_mean

VERBS = ("run", "demo", "batch", "replay", "directions", "studio", "models", "doctor", "explain", "help")
OPTIONS = ("--help", "--version", "--debug", "--multirun", "--cfg", "--offline", "--other-models", "--json")
LINE_WIDTH = 118

HELP = """\
photodrag: align, invert and tune a photograph, drag points in it, and carry the change back into the photo.

  photodrag [run] PHOTO [key=value ...]   edit one photo, as in: photodrag me.jpg edit=smile
  photodrag FOLDER [key=value ...]        the same with every photo in it (or: PHOTO PHOTO ...), and a table
  photodrag batch FOLDER|LIST.txt|'PATTERN' ... [key=value ...]    many photos, several at a time: docs/batch.md
  photodrag demo [key=value ...]          the same on the sample photo, with edit=smile
  photodrag replay RECIPE [PHOTO] [key=value ...]    make a result again from the .photodrag.json beside it
  photodrag directions [from=RUN] [key=value ...]    draw the generator's own directions, to choose one for an edit
  photodrag studio [PHOTO] [key=value ...]    the editor in the browser: place points, drag, watch, undo, save
  photodrag models list                   the public generators and LPIPS trunks, and which of them are here
  photodrag models download NAME ...      fetch them; a run never does, and names the one that it lacks
  photodrag models verify [NAME ...]      hash what is here again and compare
  photodrag models path NAME              where its file lies
  photodrag models inspect FILE|NAME      what a generator file of any format holds; nothing in it is run
  photodrag models convert FILE|RUN OUT   write a generator, or the one that a run tuned, as .safetensors or .pt
  photodrag doctor                        what is installed, what is missing, and how to get it
  photodrag explain SENTENCE|ANCHOR       cause and mend of an error that photodrag has printed
  photodrag help                          this text

Examples
  photodrag me.jpg 'edit.points=[[310,220,330,215]]'       drag (310,220) to (330,215), in pixels of the photo
  photodrag me.jpg edit=smile edit.strength=0.6 seed=3     a preset, and single settings
  photodrag me.jpg +experiment=inversion_only              only reconstruct the photo
  photodrag faces/ +experiment=inversion_only              reconstruct every photo in faces/, with table and pictures
  photodrag me1.jpg me2.jpg tune.shared=true edit=smile    one generator for several photos of a person
  photodrag from=photodrag_runs/RUN 'stages=[edit,blend]' edit=smile    another drag on an earlier run
  photodrag batch photos/ edit=smile save=smiling/         every photo in and below photos/, in the same folders
  photodrag 'stages=[sample,edit]' sample.seed=7 edit=smile             a generated image
  photodrag me.jpg -m edit=smile edit.strength=0.5,1.0     one run for each value
  photodrag me.jpg edit=smile save=beside                  me_edited.jpg beside me.jpg, and its recipe
  photodrag replay me_edited.jpg.photodrag.json            the same again, and whether it is the same to the bit

Options
  --port N         with studio: the port (8642, or the next one that is free; 0: any)
  --host ADDRESS   with studio: where it listens (127.0.0.1); one that other machines reach needs --token
  --token TOKEN    with studio: the secret in its address, instead of a new one at each start
  --no-browser     with studio: print the address, and open no browser
  --max-megapixels N    with studio: the largest photo that it takes (100)
  -m, --multirun   run every combination of the values that commas separate
  --cfg job        print the composed settings and stop: every key, its default and your changes
  --offline        with models: fetch nothing (PHOTODRAG_OFFLINE=1 does the same)
  --other-models   with replay: go on though the generator or another model is not the recorded one
  --json           with doctor: the same checks for a program to read
  --debug          print a traceback when something fails
  --version        print the version
  --               what follows is a photo's path, even when it begins with a dash

Choices (group=choice)
{groups}

Folders: PHOTODRAG_CACHE=FOLDER keeps the models there instead of in the user's cache.

Exit codes: 0 done, 1 failed, 2 the command cannot be used as given, 130 interrupted (what is finished is kept).
"""


@dataclass(frozen=True, eq=False, slots=True)
class Command:
    """A command line taken apart: `overrides` are in Hydra's grammar, a lone photo among them; `words` follow `models`,
    `directions` and `explain`; of `replay` they are the recipe alone.

    photos: the photos and folders that are given, when they are several photos or any folder; empty otherwise. Of
    `replay` they are what is given behind the recipe, of `batch` every word that names photos.
    """

    verb: str
    overrides: tuple[str, ...] = ()
    photos: tuple[str, ...] = ()
    multirun: bool = False
    show_config: bool = False
    words: tuple[str, ...] = ()
    offline: bool = False
    other_models: bool = False
    json: bool = False
    studio: StudioOptions | None = None


def parse_arguments(words: Sequence[str]) -> Command:
    """Take the words behind the program's name apart; raises UsageError for what cannot be meant.

    The first word that is a file or a folder is the photo, even when it holds an equals sign; a word of the shape
    key=value is an override; any other word is a further photo, or one that does not exist.
    """
    if words and words[0] == "explain":  # a sentence may hold what looks like an option
        return Command("explain", words=tuple(words[1:]))
    if "--" in words:
        end = list(words).index("--")
        words, paths = words[:end], list(words[end + 1 :])
    else:
        paths = []
    options = None
    if next((word for word in words if not word.startswith("-")), None) == "studio":
        options, words = split_studio_options(words)
    names, flags = _split_options(words)
    verb = names.pop(0) if names and names[0] in VERBS else "run"
    if "--help" in flags or "--version" in flags:
        return Command("help" if "--help" in flags else "version")
    if "--json" in flags and verb != "doctor":
        raise UsageError(f"--json is given to photodrag {verb}: allowed is it with doctor")
    if verb == "models":
        return Command(verb, words=(*names, *paths), offline="--offline" in flags)
    if "--offline" in flags:
        raise UsageError(f"--offline is given to photodrag {verb}, which fetches nothing: allowed is it with models")
    if verb in ("doctor", "help") and (names or paths):
        raise UsageError(f"photodrag {verb} is followed by {(names + paths)[0]}: allowed is nothing")
    if verb == "doctor":
        return Command(verb, json="--json" in flags)
    if verb == "directions":
        return Command(verb, words=(*names, *paths))
    if verb == "replay":
        return _replay(names, paths, flags)
    if verb == "batch":
        return _batch(names, paths, flags)
    if verb == "studio":
        return _studio(names, paths, flags, options)
    if "--other-models" in flags:
        raise UsageError(f"--other-models is given to photodrag {verb}: allowed is it with replay")
    photos, overrides = _split_photo(names)
    photos += paths
    demo: list[str] = []
    if verb == "demo":
        demo, photos = _demo_overrides(photos, overrides), []
    else:
        photos, overrides = _all_photos(photos, overrides)
    prepared = [*demo, *(prepare_override(text) for text in overrides)]
    several = len(photos) > 1 or any(is_folder(photo) for photo in photos)
    if photos and not several:
        prepared.insert(0, f"photo={quote_path(photos[0])}")
    if verb == "run" and not prepared and not photos and "--cfg" not in flags:
        raise UsageError("no photo is given: write photodrag PHOTO, photodrag demo, or photodrag --help for examples")
    multirun, show_config = "--multirun" in flags, "--cfg" in flags
    return Command(verb, tuple(prepared), tuple(photos) if several else (), multirun, show_config)


def _replay(names: Sequence[str], paths: Sequence[str], flags: set[str]) -> Command:
    """The recipe is the first word; photo=PATH counts as a photo behind it."""
    if "--multirun" in flags:
        raise UsageError("-m is given to photodrag replay, which makes one result: leave it out")
    words = [*names, *paths]
    if not words:
        raise UsageError(
            "no recipe is given: write photodrag replay RESULT.photodrag.json, and the photo when it is elsewhere"
        )
    photos, overrides = _split_photo(words[1 : len(names)])
    photos += paths if names else paths[1:]
    photos += [split_override(text)[2] for text in overrides if split_override(text)[1] == "photo"]
    prepared = [prepare_override(text) for text in overrides if split_override(text)[1] != "photo"]
    show_config, other_models = "--cfg" in flags, "--other-models" in flags
    return Command("replay", tuple(prepared), tuple(photos), False, show_config, (words[0],), False, other_models)


def _batch(names: Sequence[str], paths: Sequence[str], flags: set[str]) -> Command:
    """Every word that is no override names photos; photo=PATH counts as one."""
    if "--multirun" in flags:
        raise UsageError(
            "-m is given to photodrag batch, which makes one recipe: run it once for each value, or photodrag FOLDER -m"
        )
    words, overrides = _split_photo(names)
    words = [*words, *paths, *(split_override(text)[2] for text in overrides if split_override(text)[1] == "photo")]
    prepared = [prepare_override(text) for text in overrides if split_override(text)[1] != "photo"]
    if not words and "--cfg" not in flags:
        raise UsageError(
            "no photos are given: write photodrag batch FOLDER, a LIST.txt of paths, a pattern such as "
            "'photos/**/*.jpg', or photos"
        )
    return Command("batch", tuple(prepared), tuple(words), show_config="--cfg" in flags)


def _studio(names: Sequence[str], paths: Sequence[str], flags: set[str], options: StudioOptions | None) -> Command:
    """At most one photo, which may also be written photo=PATH."""
    if "--multirun" in flags:
        raise UsageError("-m is given to photodrag studio, which runs nothing by itself: leave it out")
    photos, overrides = _split_photo(names)
    photos, overrides = _all_photos([*photos, *paths], overrides)
    if len(photos) > 1 or any(is_folder(photo) for photo in photos):
        raise UsageError(f"photodrag studio is given {', '.join(photos)}: allowed is one photo; the page opens more")
    prepared = [*(f"photo={quote_path(photo)}" for photo in photos), *(prepare_override(text) for text in overrides)]
    return Command("studio", tuple(prepared), show_config="--cfg" in flags, studio=options)


def help_text() -> str:
    """The text of `photodrag --help`, with the groups and choices that are installed."""
    groups = []
    for folder in sorted(resources.files("conf").iterdir(), key=lambda entry: entry.name):
        if folder.is_dir() and not folder.name.startswith("_"):
            files = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".yaml"))
            plus = "+" if folder.name == "experiment" else " "
            names = ", ".join(name.removesuffix(".yaml") for name in files)
            groups += textwrap.wrap(
                names,
                LINE_WIDTH,
                initial_indent=f"  {plus}{folder.name:<12}",
                subsequent_indent=" " * 15,
                break_on_hyphens=False,
            )
    return HELP.format(groups="\n".join(groups))


def _split_options(words: Sequence[str]) -> tuple[list[str], set[str]]:
    """(words that are no options, the long names of the options that are given)."""
    short = {"-h": "--help", "-m": "--multirun", "-c": "--cfg"}
    names: list[str] = []
    flags: set[str] = set()
    pending = list(words)
    while pending:
        word = pending.pop(0)
        option, _, value = word.partition("=")
        option = short.get(option, option)
        if not word.startswith("-") or word == "-":
            names.append(word)
        elif option == "--cfg":
            value = value or (pending.pop(0) if pending else "")
            if value != "job":
                raise UsageError(f"--cfg is {value or 'followed by nothing'}: allowed is job")
            flags.add(option)
        elif option in OPTIONS and not value:
            flags.add(option)
        else:
            known = ", ".join(OPTIONS)
            near = did_you_mean(option, OPTIONS)
            raise UsageError(f"{word} is not an option: allowed are -m, {known}, and -- before a photo{near}")
    return names, flags


def _split_photo(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(photos, overrides): only the first existing file or folder may look like an override."""
    photos: list[str] = []
    overrides: list[str] = []
    for word in words:
        if looks_like_override(word) and (photos or not (is_file(word) or is_folder(word))):
            overrides.append(word)
        else:
            photos.append(word)
    return photos, overrides


def _all_photos(photos: Sequence[str], overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """(photos and folders, the other overrides): photo=FOLDER counts as the word FOLDER.

    Raises UsageError for a mistyped command, and for a word beside photo=PATH.
    """
    given = [split_override(text)[2] for text in overrides if split_override(text)[1] == "photo"]
    if photos and given:
        listed = ", ".join([*photos, *given])
        raise UsageError(f"{len(photos) + len(given)} photos are given ({listed}): give words only, or one photo=PATH")
    for photo in photos:
        if not is_file(photo) and not is_folder(photo) and "=" not in photo and (near := did_you_mean(photo, VERBS)):
            raise UsageError(f"{photo} is neither a file nor a command{near}")
    folders = [path for path in given if is_folder(path)]
    others = [text for text in overrides if not (folders and split_override(text)[1] == "photo")]
    return [*photos, *folders], others


def _demo_overrides(photos: Sequence[str], overrides: Sequence[str]) -> list[str]:
    keys = {split_override(text)[1] for text in overrides}
    if photos or "photo" in keys:
        raise UsageError("photodrag demo has its own photo: leave the photo away, or write photodrag PHOTO edit=smile")
    asking = {"edit", "edit.points", "edit.preset", "edit.like", "edit.direction", "edit.replay"}
    edit = [] if keys & asking else ["edit=smile"]
    return [f"photo={quote_path(str(sample_photo()))}", *edit]


def is_file(word: str) -> bool:
    """Whether a word names an existing file; a word that cannot be a path (too long, say) does not."""
    try:
        return Path(word).is_file()
    except (OSError, ValueError):
        return False


def is_folder(word: str) -> bool:
    """Whether a word names an existing folder."""
    try:
        return Path(word).is_dir()
    except (OSError, ValueError):
        return False
