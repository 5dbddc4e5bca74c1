"""What a path means, and the proof that it is what was made."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from llamatelemetry.artifacts.files import create_manifest, manifest_path, write_manifest
from llamatelemetry.artifacts.signing import sign_artifact
from llamatelemetry.artifacts.store import ArtifactStore
from llamatelemetry.deployment.artifact import find_artifact, prove
from llamatelemetry.errors import (
    ArtifactMissingError,
    ArtifactTamperedError,
    InvalidValueError,
    SignatureError,
    UnverifiedArtifactError,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file with its manifest beside it, in a folder of its own."""
    path = tmp_path / "models" / "m.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF and more")
    write_manifest(create_manifest(path, kind="gguf"), path)
    return path


def test_a_file_its_manifest_its_folder_and_a_link_to_it_mean_the_same(model: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.gguf"
    link.symlink_to(model)
    for named in (model, manifest_path(model), model.parent, link):
        found = find_artifact(named)
        assert (found.model, found.artifact) == (model, model)
        assert prove(found).standing == "verified"


def test_a_folder_with_a_manifest_of_all_of_it_means_the_model_in_it(model: Path) -> None:
    manifest_path(model).unlink()
    (model.parent / "notes.txt").write_text("kept with it")
    write_manifest(create_manifest(model.parent, kind="gguf"), model.parent)
    for named in (model.parent, manifest_path(model.parent), model):
        found = find_artifact(named)
        assert (found.model, found.artifact) == (model, model.parent)
        prove(found)
    (model.parent / "notes.txt").write_text("changed")
    with pytest.raises(ArtifactTamperedError, match=r"notes\.txt"):
        prove(find_artifact(model))


def test_a_model_in_a_store_has_its_manifest_there(model: Path, tmp_path: Path) -> None:
    manifest = create_manifest(model, kind="gguf")
    kept = ArtifactStore(tmp_path / "store").add(manifest, model)
    proved = prove(find_artifact(kept))
    assert proved.manifest == manifest
    assert proved.sha256 == manifest.files[0].sha256


def test_what_is_not_there_or_not_clear_is_told(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissingError):
        find_artifact(tmp_path / "nothing")
    with pytest.raises(ArtifactMissingError, match="holds no GGUF"):
        find_artifact(tmp_path)
    other = model.with_name("n.gguf")
    other.write_bytes(b"GGUF")
    write_manifest(create_manifest(other, kind="gguf"), other)
    with pytest.raises(InvalidValueError, match=r"m\.gguf, n\.gguf"):
        find_artifact(model.parent)
    model.unlink()
    assert find_artifact(model.parent).model == other
    with pytest.raises(ArtifactMissingError, match="put the artifact back"):
        find_artifact(manifest_path(model))


def test_without_a_manifest_it_takes_a_word_of_permission(model: Path) -> None:
    manifest_path(model).unlink()
    found = find_artifact(model.parent)
    with pytest.raises(UnverifiedArtifactError):
        prove(found)
    with pytest.raises(UnverifiedArtifactError, match="sign it"):
        prove(found, allow_unverified=True, public_key=model)
    proved = prove(found, allow_unverified=True)
    assert (proved.standing, proved.manifest) == ("unverified", None)
    assert proved.origin.run_id == ""


def test_what_was_deployed_before_has_to_be_the_same(model: Path) -> None:
    prove(find_artifact(model), expected_sha256=prove(find_artifact(model)).sha256)
    with pytest.raises(ArtifactTamperedError, match="was deployed with aaaa"):
        prove(find_artifact(model), expected_sha256="a" * 64)


def test_a_signature_that_is_wanted_and_not_there_is_refused(model: Path, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    with pytest.raises(SignatureError, match=r"key\.pem: cannot be read"):
        prove(find_artifact(model), public_key=key)
    key.touch()
    with pytest.raises(SignatureError, match="there is no signature"):
        prove(find_artifact(model), public_key=key)


def test_what_a_keys_owner_signed_is_told_apart_and_another_key_is_refused(model: Path, tmp_path: Path) -> None:
    private, public, other = (tmp_path / f"{name}.pem" for name in ("private", "public", "other"))
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    form = serialization.PrivateFormat.PKCS8
    private.write_bytes(keys[0].private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    for path, key in ((public, keys[0]), (other, keys[1])):
        form_of_public = serialization.PublicFormat.SubjectPublicKeyInfo
        path.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form_of_public))
    sign_artifact(model, private_key=private)
    assert prove(find_artifact(model), public_key=public).standing == "signed"
    with pytest.raises(SignatureError):
        prove(find_artifact(model), public_key=other)
