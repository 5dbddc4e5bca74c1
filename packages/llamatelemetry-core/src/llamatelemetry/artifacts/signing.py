"""Signatures of artifacts by OpenSSF model-signing, with a key of one's own; no network is asked.

A manifest says what an artifact is; a signature says who says so. Two are made, each in a file beside
what it covers: one of the artifact, which anybody's model-signing verifies, and one of the manifest,
which also covers where the artifact came from.

Format: https://github.com/ossf/model-signing-spec, an in-toto statement in a Sigstore bundle.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from llamatelemetry.artifacts.atomic import write_atomically
from llamatelemetry.artifacts.files import beside, load_artifact, manifest_path, verify_files, write_manifest
from llamatelemetry.artifacts.hashing import open_unchanging
from llamatelemetry.artifacts.manifest import ArtifactManifest
from llamatelemetry.artifacts.statement import statement
from llamatelemetry.errors import LlamatelemetryError, MissingDependencyError, SignatureError

SIGNATURE_SUFFIX: Final = ".sig"
"""What a signature is called after the name of what it covers."""
MAX_SIGNATURE_BYTES: Final = 32 * 2**20
PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"
_IGNORED: Final = (".git", ".gitattributes", ".github", ".gitignore")
"""What model-signing leaves out unless told otherwise, so that whoever verifies need not be told."""
_WHOLE_MODEL: Final = "."
"""What model-signing calls the one file of a model that is no folder."""


def signature_path(path: Path) -> Path:
    """Where the signature of a file or folder stands: beside it, with :data:`SIGNATURE_SUFFIX` after its name."""
    return beside(path, SIGNATURE_SUFFIX)


def signing_statement(manifest: ArtifactManifest) -> dict[str, Any]:
    """What model-signing signs of an artifact, made from its manifest without reading a file again."""
    files = [
        (file.path if manifest.is_folder else _WHOLE_MODEL, file.sha256)
        for file in manifest.files
        if file.path.split("/")[0] not in _IGNORED or not manifest.is_folder
    ]
    root = hashlib.sha256(b"".join(bytes.fromhex(sha256) for _, sha256 in files)).hexdigest()
    serialization = {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": False,
        "ignore_paths": [*_IGNORED],
    }
    resources = [{"name": name, "algorithm": "sha256", "digest": sha256} for name, sha256 in files]
    return statement([(manifest.name, root)], PREDICATE_TYPE, {"serialization": serialization, "resources": resources})


def sign_artifact(path: Path, *, private_key: Path, password: str | None = None) -> tuple[Path, Path]:
    """Signs an artifact and the manifest beside it, once every file was found to be what the manifest says.

    Args:
        path: The artifact.
        private_key: An elliptic-curve key in PEM: P-256, P-384 or P-521.
        password: What the key is encrypted with.

    Returns:
        Where the signatures of the artifact and of the manifest stand.

    Raises:
        MissingDependencyError: model-signing is not installed.
        SignatureError: The key cannot be used.
        ArtifactError: The subclass says what is wrong with the artifact or its manifest.
    """
    check_key(private_key)
    signing_api, _ = _model_signing()
    manifest = load_artifact(path)
    covered = (path, manifest_path(path))
    with _refusals(private_key), tempfile.TemporaryDirectory() as folder:
        # It declares text and hands it to a library that takes bytes.
        secret = None if password is None else password.encode()
        signer = signing_api.Config().use_elliptic_key_signer(private_key=private_key, password=secret)
        made = [Path(folder, str(number)) for number in range(len(covered))]
        for what, signature in zip(covered, made, strict=True):
            signer.sign(what, signature)
        contents = [signature.read_bytes() for signature in made]
    _check_covers(manifest, contents[0], path)
    for what, content in zip(covered, contents, strict=True):
        write_atomically(signature_path(what), content)
    return signature_path(covered[0]), signature_path(covered[1])


def sign_described(
    path: Path, manifest: ArtifactManifest, *, private_key: Path, password: str | None = None
) -> tuple[Path, Path]:
    """Signs an artifact whose manifest stands elsewhere, as in a store.

    The manifest is written beside the artifact as it is, so that what is signed leads back to the same run.

    Args:
        path: The artifact.
        manifest: What it is.
        private_key: As :func:`sign_artifact`.
        password: What the key is encrypted with.

    Returns:
        Where the signatures of the artifact and of the manifest stand.

    Raises:
        MissingDependencyError: model-signing is not installed.
        SignatureError: The key cannot be used.
        ArtifactError: The subclass says what is wrong with the artifact; nothing is written.
    """
    check_signer(private_key)
    verify_files(manifest, path)
    write_manifest(manifest, path)
    return sign_artifact(path, private_key=private_key, password=password)


def verify_signatures(path: Path, *, public_key: Path) -> ArtifactManifest:
    """The manifest beside an artifact, once both were found to be what the key's owner signed.

    Raises:
        MissingDependencyError: model-signing is not installed.
        SignatureError: A signature is missing, made by another key, or covers something else.
        ArtifactError: The subclass says what is wrong with the artifact or its manifest.
    """
    check_key(public_key)
    _, verifying_api = _model_signing()
    manifest = load_artifact(path)
    contents = []
    for what in (path, manifest_path(path)):
        signature = signature_path(what)
        content = _signature(signature)
        with _refusals(signature), tempfile.TemporaryDirectory() as folder:
            # A copy, so that what is verified is what was looked at here.
            copy = Path(folder, "copy")
            copy.write_bytes(content)
            _check_hint(content)
            verifying_api.Config().use_elliptic_key_verifier(public_key=public_key).verify(what, copy)
        contents.append(content)
    _check_covers(manifest, contents[0], path)
    return manifest


def check_key(path: Path) -> None:
    """Sees that a key's file is there, before hours go into hashing what it is for.

    Raises:
        SignatureError: It is not, or cannot be read.
    """
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise SignatureError(path, f"cannot be read: {error.strerror}; give the PEM file of a key") from None


def check_signer(private_key: Path) -> None:
    """Sees that something could be signed, before hours go into what is to be.

    Raises:
        MissingDependencyError: model-signing is not installed.
        SignatureError: The key's file is not there, or cannot be read.
    """
    check_key(private_key)
    if find_spec("model_signing") is None:
        raise _missing("model_signing")


def _model_signing() -> tuple[Any, Any]:
    """Its modules for signing and for verifying, imported only here: that takes seconds."""
    try:
        from model_signing import signing, verifying
    except ImportError as error:
        raise _missing(error.name or "model-signing") from None
    return signing, verifying


def _missing(name: str) -> MissingDependencyError:
    return MissingDependencyError("signing", name, "pip install 'llamatelemetry-core[signing]'")


def _signature(path: Path) -> bytes:
    try:
        with open_unchanging(path) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_SIGNATURE_BYTES + 1)
    except FileNotFoundError:
        raise SignatureError(path, "there is no signature: sign the artifact, or ask for the file") from None
    if len(content) > MAX_SIGNATURE_BYTES:
        raise SignatureError(path, f"is larger than the {MAX_SIGNATURE_BYTES} bytes that a signature may have")
    return content


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Turns whatever model-signing raises into one error: it raises what its parsers raise."""
    try:
        yield
    except LlamatelemetryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or "the signature is not that of this key"
        raise SignatureError(path, f"{reason[:500]}: do not trust it, or check the key") from error


def _check_hint(content: bytes) -> None:
    """Signatures from before its release 1.0 name no key, and for them it writes to standard output."""
    if not json.loads(content)["verificationMaterial"]["publicKey"]["hint"]:
        raise ValueError("the signature does not say which key made it")


def _check_covers(manifest: ArtifactManifest, signature: bytes, path: Path) -> None:
    """What was signed has to be what the manifest says, though both were read from the files by themselves."""
    payload = json.loads(base64.b64decode(json.loads(signature)["dsseEnvelope"]["payload"]))
    expected = signing_statement(manifest)
    if payload["predicate"]["resources"] != expected["predicate"]["resources"] or (
        payload["subject"][0]["digest"] != expected["subject"][0]["digest"]
    ):
        raise SignatureError(signature_path(path), "covers other files than the manifest: sign the artifact again")
