"""A signed C2PA manifest (Content Credentials) in a finished file: what it was made from, and that a model changed it.

C2PA Technical Specification 2.x: actions c2pa.opened and c2pa.edited, the original as the parent ingredient. The extra
`c2pa` does the work; nothing is asked of the network, so the signature has no time stamp of an authority.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from data.errors import PhotoError, UsageError
from data.metadata import AI_EDITED, SOFTWARE, software
from data.photo_heif import is_avif, is_heif

ALGORITHMS = ("es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519")
PARENT = "parent"

SETTINGS = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}
"""No network, and no thumbnails: that of the original would show the photo before the edit."""

_BEGINNINGS = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"II*\x00": "image/tiff",
    b"MM\x00*": "image/tiff",
}


@dataclass(frozen=True, slots=True)
class Signing:
    """What signs: PEM certificates (the signer's first, then those above it), the PEM private key, the algorithm."""

    certificates: bytes
    key: bytes
    algorithm: str = "es256"


def read_signing(certificates: Path | str, key: Path | str, algorithm: str = "es256") -> Signing:
    """The certificates and the key in two PEM files, tried out, so that a run can refuse them before it works.

    Raises UsageError, one sentence: the extra is missing, a file cannot be read, or the two do not fit the algorithm.
    """
    if algorithm not in ALGORITHMS:
        raise UsageError(f"The signing algorithm is {algorithm!r}; allowed are {', '.join(ALGORITHMS)}.")
    signing = Signing(_read_pem(certificates, "certificate"), _read_pem(key, "private key"), algorithm)
    c2pa = _library()
    tried = io.BytesIO()
    Image.new("L", (1, 1)).save(tried, "PNG")
    try:
        _sign(c2pa, tried.getvalue(), (tried.getvalue(), "trial.png"), signing, "trial.png")
    except c2pa.C2paError as error:
        raise UsageError(
            f"The certificate {str(certificates)!r} and the key {str(key)!r} cannot sign with {algorithm} "
            f"({_words(error)}); give a PEM certificate chain and its unencrypted PKCS#8 key."
        ) from error
    return signing


def _read_pem(path: Path | str, what: str) -> bytes:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(
            f"The {what} {str(path)!r} cannot be read ({error.strerror or error}); give the path of a PEM file."
        ) from error
    if b"-----BEGIN " not in data:
        raise UsageError(f"The {what} {str(path)!r} is not a PEM file; convert it to one with openssl.")
    return data


def _library() -> Any:
    try:
        import c2pa
    except ImportError as error:
        raise UsageError(
            "Signing Content Credentials needs a package that is not installed: "
            'pip install "photodrag[c2pa]", or leave the signature out.'
        ) from error
    return c2pa


def _sign(c2pa: Any, data: bytes, original: tuple[bytes, str], signing: Signing, title: str) -> bytes:
    """The signed file; `original` is the parent's bytes and name. Raises the library's own errors."""
    source, name = original
    info = c2pa.C2paSignerInfo(signing.algorithm, signing.certificates, signing.key, None)
    signed = io.BytesIO()
    with (
        c2pa.Signer.from_info(info) as signer,
        c2pa.Context.from_dict(SETTINGS) as context,
        c2pa.Builder(_manifest(title), context=context) as builder,
    ):
        ingredient = {"title": name, "relationship": "parentOf", "label": PARENT}
        builder.add_ingredient(ingredient, _media_type(source, name), io.BytesIO(source))
        builder.sign(signer, _media_type(data, title), io.BytesIO(data), signed)
    return signed.getvalue()


def sign_photo(data: bytes, original: Path | str, signing: Signing, *, title: str | None = None) -> bytes:
    """The bytes of a finished JPEG, PNG, TIFF or WebP with a signed manifest; the last thing that is done to a file.

    original: the file that was edited; its hash and the manifest that it may have are recorded, its pixels are not.
    title: the file's name as the manifest tells it (None: that of the original). Pixels and metadata stay as they are.
    Raises UsageError without the extra, PhotoError where the file or the original cannot be used.
    """
    c2pa = _library()
    original = Path(original)
    try:
        source = original.read_bytes()
    except OSError as error:
        raise PhotoError(
            f"The original {str(original)!r} cannot be read for the manifest ({error.strerror or error})."
        ) from error
    try:
        return _sign(c2pa, data, (source, original.name), signing, title or original.name)
    except c2pa.C2paError as error:
        raise PhotoError(
            f"The result cannot be signed ({_words(error)}); check certificate and key, or leave the signature out."
        ) from error


def _manifest(title: str) -> dict[str, Any]:
    """The manifest definition: opened from the parent, then edited with parts made by a trained model."""
    _, _, version = software().partition(" ")
    opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": [PARENT]}}
    edited = {"action": "c2pa.edited", "digitalSourceType": AI_EDITED, "softwareAgent": {"name": SOFTWARE}}
    return {
        "title": title,
        "claim_generator_info": [{"name": SOFTWARE} | ({"version": version} if version else {})],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [opened, edited]}}],
    }


def _media_type(data: bytes, name: str) -> str:
    """The media type of a photo's bytes."""
    if is_avif(data):
        return "image/avif"
    if is_heif(data):
        return "image/heic"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    for beginning, media_type in _BEGINNINGS.items():
        if data.startswith(beginning):
            return media_type
    raise PhotoError(f"The file {name!r} is of a format that cannot carry or be named in a signed manifest.")


def _words(error: Exception) -> str:
    """An error of the library as a part of a sentence."""
    return " ".join(str(error).split()).rstrip(".")
