"""Content Credentials: a signed manifest in a finished file, made and read back with certificates of this test."""

import builtins
import datetime
import io
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.errors import PhotoError, UsageError
from data.metadata import AI_EDITED
from data.photo import Photo, encode_photo
from data.photo_decode import decode_photo
from data.provenance import read_signing, sign_photo

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")


def certificates() -> tuple[bytes, bytes]:
    """PEM of a signer's certificate and the one above it, and of the signer's key, as C2PA asks for them."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.timezone.utc)
    above_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def name(common: str) -> Any:
        oid = x509.oid.NameOID
        pairs = ((oid.COMMON_NAME, common), (oid.ORGANIZATION_NAME, "Test"))
        return x509.Name([x509.NameAttribute(kind, value) for kind, value in pairs])

    def certificate(subject: str, public: Any, *, is_above: bool) -> Any:
        usage = dict.fromkeys(
            (
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "encipher_only",
                "decipher_only",
            ),
            False,
        )
        usage |= {"digital_signature": not is_above, "key_cert_sign": is_above, "crl_sign": is_above}
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("Above"))
            .public_key(public)
            .serial_number(1 if is_above else 2)
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=9))
            .add_extension(x509.BasicConstraints(is_above, None), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(above_key.public_key()), critical=False)
        )
        if is_above:
            identifier = x509.SubjectKeyIdentifier.from_public_key(public)
            builder = builder.add_extension(identifier, critical=False)
        else:
            purpose = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(purpose, critical=False)
        return builder.sign(above_key, hashes.SHA256())

    pem = serialization.Encoding.PEM
    chain = [certificate("Signer", key.public_key(), is_above=False)]
    chain.append(certificate("Above", above_key.public_key(), is_above=True))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return b"".join(one.public_bytes(pem) for one in chain), private


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Paths of a certificate chain and its key."""
    pytest.importorskip("c2pa")
    folder = tmp_path_factory.mktemp("signing")
    chain, key = certificates()
    (folder / "chain.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes(key)
    return folder / "chain.pem", folder / "key.pem"


def told(data: bytes, media_type: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Validation state, active manifest and whole store, by the library's own reader."""
    c2pa = pytest.importorskip("c2pa")
    with c2pa.Reader(media_type, io.BytesIO(data)) as reader:
        store = json.loads(reader.json())
        return reader.get_validation_state(), store["manifests"][store["active_manifest"]], store


@pytest.mark.parametrize("format", FORMATS)
def test_a_signed_file_says_what_it_is_and_keeps_its_pixels(
    tmp_path: Path, files: tuple[Path, Path], format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*anything: object) -> None:
        raise AssertionError("signing asks the network")

    monkeypatch.setattr(socket, "socket", no_network)
    values = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    original = tmp_path / "me.jpg"
    original.write_bytes(encode_photo(Photo(values, format="JPEG"), edited=False))
    finished = encode_photo(Photo(values[::-1].copy(), format=format), edited=True)
    signed = sign_photo(finished, original, read_signing(*files), title="result.file")
    media_type = f"image/{format.lower()}"
    state, manifest, _ = told(signed, media_type)
    assert state == "Valid"
    assert manifest["title"] == "result.file"
    assert manifest["claim_generator_info"][0]["name"] == "photodrag"
    assert [(one["title"], one["relationship"]) for one in manifest["ingredients"]] == [("me.jpg", "parentOf")]
    assert "thumbnail" not in manifest and "thumbnail" not in manifest["ingredients"][0]
    (actions,) = (one["data"]["actions"] for one in manifest["assertions"] if one["label"] == "c2pa.actions.v2")
    assert [action["action"] for action in actions] == ["c2pa.opened", "c2pa.edited"]
    assert actions[0]["parameters"]["ingredients"], "what was opened is the parent"
    assert actions[1]["digitalSourceType"] == AI_EDITED
    before, after = (decode_photo(data, "x", 10_000) for data in (finished, signed))
    assert np.array_equal(before.pixels, after.pixels)
    assert (before.xmp, before.exif) == (after.xmp, after.exif)
    at = len(signed) // 2 if format == "JPEG" else signed.rindex(finished[-40:-20])
    touched = signed[:at] + bytes([signed[at] ^ 1]) + signed[at + 1 :]
    assert told(touched, media_type)[0] == "Invalid", "a byte that is changed afterwards is seen"


def test_a_manifest_of_the_original_is_carried_on(tmp_path: Path, files: tuple[Path, Path]) -> None:
    signing = read_signing(*files)
    first = tmp_path / "first.jpg"
    data = encode_photo(Photo(np.zeros((20, 30, 3), np.uint8), format="JPEG"), edited=True)
    first.write_bytes(data)
    second = tmp_path / "second.jpg"
    second.write_bytes(sign_photo(data, first, signing))
    third = sign_photo(data, second, signing)
    state, manifest, store = told(third, "image/jpeg")
    assert state == "Valid"
    assert len(store["manifests"]) == 2
    assert manifest["ingredients"][0]["active_manifest"] in store["manifests"]


def test_what_cannot_sign_is_refused_before_any_work(tmp_path: Path, files: tuple[Path, Path]) -> None:
    chain, key = files
    other = tmp_path / "other.pem"
    other.write_bytes(certificates()[1])
    with pytest.raises(UsageError, match=r"cannot sign with es256 \(.*\); give a PEM certificate chain and its"):
        read_signing(chain, other)
    with pytest.raises(UsageError, match="cannot sign with ps256"):
        read_signing(chain, key, "ps256")
    with pytest.raises(UsageError, match="The signing algorithm is 'rsa'; allowed are es256"):
        read_signing(chain, key, "rsa")
    with pytest.raises(UsageError, match=r"The private key .*absent.pem' cannot be read"):
        read_signing(chain, tmp_path / "absent.pem")
    (tmp_path / "der.pem").write_bytes(b"\x30\x82")
    with pytest.raises(UsageError, match="is not a PEM file"):
        read_signing(tmp_path / "der.pem", key)


def test_originals_that_cannot_be_named_are_refused(tmp_path: Path, files: tuple[Path, Path]) -> None:
    signing = read_signing(*files)
    data = encode_photo(Photo(np.zeros((20, 30, 3), np.uint8), format="JPEG"), edited=True)
    with pytest.raises(PhotoError, match="cannot be read for the manifest"):
        sign_photo(data, tmp_path / "absent.jpg", signing)
    (tmp_path / "a.txt").write_bytes(b"words")
    with pytest.raises(PhotoError, match=r"'a.txt' is of a format that cannot carry or be named in a signed manifest"):
        sign_photo(data, tmp_path / "a.txt", signing)


def test_without_the_extra_one_sentence_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "c2pa":
            raise ModuleNotFoundError("No module named 'c2pa'")
        return ordinary(name, *rest)

    (tmp_path / "a.pem").write_bytes(b"-----BEGIN CERTIFICATE-----")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError) as caught:
        read_signing(tmp_path / "a.pem", tmp_path / "a.pem")
    assert str(caught.value) == (
        "Signing Content Credentials needs a package that is not installed: "
        'pip install "photodrag[c2pa]", or leave the signature out.'
    )
