from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from llamatelemetry.artifacts.files import create_manifest, manifest_path, write_manifest
from llamatelemetry.artifacts.manifest import ArtifactManifest
from llamatelemetry.artifacts.signing import (
    MAX_SIGNATURE_BYTES,
    check_signer,
    sign_artifact,
    signature_path,
    signing_statement,
    verify_signatures,
)
from llamatelemetry.errors import ArtifactError, ArtifactTamperedError, MissingDependencyError, SignatureError

Described = Callable[..., ArtifactManifest]


class Keys:
    """A pair of keys in files."""

    def __init__(self, folder: Path, name: str, curve: ec.EllipticCurve, password: bytes | None = None) -> None:
        self.private, self.public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
        key = ec.generate_private_key(curve)
        encryption = (
            serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
        )
        pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        self.private.write_bytes(key.private_bytes(pem, form, encryption))
        form_of_public = serialization.PublicFormat.SubjectPublicKeyInfo
        self.public.write_bytes(key.public_key().public_bytes(pem, form_of_public))


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path, "key", ec.SECP256R1())


def model_signing(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """OpenSSF's own command line."""
    command = [sys.executable, "-m", "model_signing", "--log-level", "error", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=140, check=False)


def signed_payload(signature: Path) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(
        base64.b64decode(json.loads(signature.read_bytes())["dsseEnvelope"]["payload"])
    )
    return payload


@pytest.mark.timeout(300)  # Its command line takes many seconds to import.
def test_a_signature_of_ours_is_verified_by_model_signing_and_one_of_its_by_us(
    folder: Path, keys: Keys, described: Described
) -> None:
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    write_manifest(described(folder), folder)
    ours, of_manifest = sign_artifact(folder, private_key=keys.private)
    assert (ours.name, of_manifest.name) == ("checkpoint.sig", "checkpoint.manifest.json.sig")
    verified = model_signing("verify", "key", folder, "--signature", ours, "--public_key", keys.public)
    assert verified.returncode == 0, verified.stderr

    ours.unlink()
    signed = model_signing("sign", "key", folder, "--signature", ours, "--private_key", keys.private)
    assert signed.returncode == 0, signed.stderr
    assert verify_signatures(folder, public_key=keys.public) == described(folder)


def test_the_statement_that_a_manifest_gives_is_the_one_that_model_signing_signs(
    folder: Path, file: Path, keys: Keys, described: Described
) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref")
    (folder / "sub" / ".gitignore").write_text("x")
    for path in (folder, file):
        write_manifest(described(path), path)
        sign_artifact(path, private_key=keys.private)
        signed, expected = signed_payload(signature_path(path)), signing_statement(described(path))
        for each in (signed, expected):
            each["predicate"]["serialization"]["ignore_paths"].sort()  # Theirs come in no order.
        assert signed == expected
        Statement.copy_from_pb(json_format.Parse(json.dumps(expected), statement_pb2.Statement())).validate()


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
def test_larger_and_encrypted_keys_sign_too(file: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    keys = Keys(tmp_path, "other", curve, b"secret")
    write_manifest(create_manifest(file, kind="gguf"), file)
    with pytest.raises(SignatureError, match=r"other\.pem"):
        sign_artifact(file, private_key=keys.private)
    sign_artifact(file, private_key=keys.private, password="secret")
    verify_signatures(file, public_key=keys.public)


def test_a_changed_file_is_named_and_a_manifest_made_for_it_is_not_believed(folder: Path, keys: Keys) -> None:
    write_manifest(create_manifest(folder, kind="checkpoint"), folder)
    sign_artifact(folder, private_key=keys.private)
    (folder / "config.json").write_text('{"a": 2}')
    with pytest.raises(ArtifactTamperedError, match=r"config\.json has the SHA-256"):
        verify_signatures(folder, public_key=keys.public)
    write_manifest(create_manifest(folder, kind="checkpoint"), folder)
    with pytest.raises(SignatureError, match=r"checkpoint\.sig: Signature mismatch.*config\.json"):
        verify_signatures(folder, public_key=keys.public)


def test_a_manifest_that_tells_another_origin_of_the_same_files_is_not_believed(
    file: Path, keys: Keys, described: Described
) -> None:
    write_manifest(described(file), file)
    sign_artifact(file, private_key=keys.private)
    write_manifest(create_manifest(file, kind="gguf"), file)
    with pytest.raises(SignatureError, match=r"model\.gguf\.manifest\.json\.sig"):
        verify_signatures(file, public_key=keys.public)


def test_another_key_is_noticed(file: Path, keys: Keys, tmp_path: Path) -> None:
    write_manifest(create_manifest(file, kind="gguf"), file)
    sign_artifact(file, private_key=keys.private)
    with pytest.raises(SignatureError, match="Key mismatch"):
        verify_signatures(file, public_key=Keys(tmp_path, "other", ec.SECP256R1()).public)


def test_what_was_never_signed_is_said(file: Path, keys: Keys) -> None:
    write_manifest(create_manifest(file, kind="gguf"), file)
    with pytest.raises(SignatureError, match=r"model\.gguf\.sig: there is no signature"):
        verify_signatures(file, public_key=keys.public)
    with pytest.raises(ArtifactError, match=r"key\.pub\.pem: .*private key"):
        sign_artifact(file, private_key=keys.public)
    assert not signature_path(file).exists()


def test_damaged_and_hostile_signatures_are_refused_by_one_error(file: Path, keys: Keys) -> None:
    write_manifest(create_manifest(file, kind="gguf"), file)
    signature, _ = sign_artifact(file, private_key=keys.private)
    content = signature.read_bytes()
    bundle = json.loads(content)
    without_hint = json.loads(content)
    without_hint["verificationMaterial"]["publicKey"]["hint"] = None
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"]).replace(b"model.gguf", b"other.gguf")
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    for hostile in (
        json.dumps(bundle).encode(),
        json.dumps(without_hint).encode(),
        b"",
        b"{}",
        b"[]",
        b"[" * 1_000_000,
        b'{"verificationMaterial": {"publicKey": {"hint": 5}}}',
        content[:-20],
        bytes(MAX_SIGNATURE_BYTES + 1),
    ):
        signature.write_bytes(hostile)
        with pytest.raises(SignatureError, match=r"model\.gguf\.sig"):
            verify_signatures(file, public_key=keys.public)
    signature.write_bytes(content)
    verify_signatures(file, public_key=keys.public)


def test_where_model_signing_is_not_installed_one_error_says_what_to_run(
    file: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'llamatelemetry-core\[signing\]'"):
        sign_artifact(file, private_key=keys.private)
    with pytest.raises(MissingDependencyError, match=r"pip install 'llamatelemetry-core\[signing\]'"):
        check_signer(keys.private)
    assert not manifest_path(file).exists()


def test_a_key_that_is_not_there_is_named_and_nothing_else_is_blamed(tmp_path: Path, keys: Keys) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    write_manifest(create_manifest(path, kind="gguf"), path)
    sign_artifact(path, private_key=keys.private)
    gone = tmp_path / "gone.pem"
    for use in (lambda: sign_artifact(path, private_key=gone), lambda: verify_signatures(path, public_key=gone)):
        with pytest.raises(SignatureError, match=r"/gone\.pem: cannot be read: No such file or directory; give"):
            use()
