"""Real GGUF files of SmolLM2 that say which run made them: believed, doubted and refuted."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from gguf.scripts.gguf_new_metadata import MetadataDetails, copy_with_new_metadata

from llamatelemetry.artifacts.files import create_manifest, manifest_path, write_manifest
from llamatelemetry.artifacts.lineage import Lineage, ModelLineage
from llamatelemetry.artifacts.manifest import ArtifactOrigin
from llamatelemetry.llama.gguf import read_gguf
from llamatelemetry.llama.model_origin import origin
from llamatelemetry.llama.observed_models import observed_model

LINEAGE = Lineage(
    run_id="run-7", trace_id="0af7651916cd43dd8448eb211c80319c", span_id="b7ad6b7169203331", parent_digest="c" * 64
)
Asked = Callable[..., tuple[str | None, ModelLineage | None]]


@pytest.fixture(scope="module")
def marked(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 with the keys of a lineage in its metadata, written by upstream's own package."""
    path = tmp_path_factory.mktemp("marked") / "marked.gguf"
    reader = gguf.GGUFReader(model_path)
    writer = gguf.GGUFWriter(path, "llama")
    added = {key: MetadataDetails(gguf.GGUFValueType.STRING, value) for key, value in LINEAGE.metadata().items()}
    copy_with_new_metadata(reader, writer, added, [])
    return path


@pytest.fixture
def model(marked: Path, tmp_path: Path) -> Path:
    """The same file in a folder of its own, where a manifest can stand beside it."""
    path = tmp_path / "model.gguf"
    path.hardlink_to(marked)
    return path


@pytest.fixture
def ask(caplog: pytest.LogCaptureFixture) -> Asked:
    """Looks at a file as the backend does when it opens it."""

    def look(path: Path, *, sha256: bool | None = None) -> tuple[str | None, ModelLineage | None]:
        caplog.clear()
        return origin(path, read_gguf(path), sha256=sha256)

    return look


def described(path: Path) -> Path:
    """The file with a manifest beside it, of another run than its metadata names."""
    made_by = ArtifactOrigin(stage="quantize", run_id="run-8", trace_id="1" * 32, span_id="2" * 16)
    return write_manifest(create_manifest(path, kind="gguf", origin=made_by), path)


def test_a_model_of_which_nothing_is_said_is_not_hashed(model_path: Path, ask: Asked) -> None:
    assert ask(model_path) == (None, None)
    assert ask(model_path, sha256=True) == (hashlib.sha256(model_path.read_bytes()).hexdigest(), None)


def test_a_file_alone_names_its_run_and_that_nothing_proves_it_is_logged(
    model: Path, ask: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    digest, lineage = ask(model)
    assert digest == hashlib.sha256(model.read_bytes()).hexdigest()
    assert lineage is not None
    assert (lineage.standing, lineage.run_id) == ("missing", "run-7")
    assert (lineage.trace_id, lineage.span_id) == (LINEAGE.trace_id, LINEAGE.span_id)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"the origin of model {model} is missing" in record.getMessage()


def test_a_manifest_beside_it_proves_the_run_and_nothing_is_logged(
    model: Path, ask: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    described(model)
    digest, lineage = ask(model)
    assert digest is not None
    assert lineage == ModelLineage(standing="verified", run_id="run-8", trace_id="1" * 32, span_id="2" * 16)
    assert caplog.records == []


def test_a_flipped_byte_among_the_weights_is_said_and_leads_nowhere(
    marked: Path, tmp_path: Path, ask: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(marked.read_bytes())
    described(path)
    with path.open("r+b") as file:
        file.seek(-1000, 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    _, lineage = ask(path)
    assert lineage is not None
    assert (lineage.standing, lineage.trace_id, lineage.run_id) == ("tampered", "", "")
    assert f"the origin of model {path} is tampered: it has the SHA-256" in caplog.text


def test_a_changed_manifest_is_said_and_named(model: Path, ask: Asked, caplog: pytest.LogCaptureFixture) -> None:
    path = described(model)
    path.write_bytes(path.read_bytes().replace(b"run-8", b"run-9"))
    _, lineage = ask(model)
    assert lineage is not None
    assert lineage.standing == "tampered"
    assert str(manifest_path(model)) in caplog.text


def test_whoever_cannot_wait_is_told_that_nothing_was_compared(model: Path, ask: Asked) -> None:
    described(model)
    digest, lineage = ask(model, sha256=False)
    assert digest is None
    assert lineage is not None
    assert (lineage.standing, lineage.run_id) == ("unverified", "run-8")


def test_a_file_is_hashed_again_only_after_it_changed(
    model_path: Path, tmp_path: Path, ask: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(model_path.read_bytes())
    hashed = []

    def counted(each: Path) -> str:
        hashed.append(each)
        return str(len(hashed))

    monkeypatch.setattr("llamatelemetry.llama.model_origin.sha256_of", counted)
    assert [ask(path, sha256=True)[0], ask(path, sha256=True)[0]] == ["1", "1"]
    path.touch()
    assert ask(path, sha256=True)[0] == "2"


def test_a_model_in_this_process_tells_its_run_without_being_hashed(model: Path) -> None:
    lineage = observed_model(str(model)).lineage
    assert lineage is not None
    assert (lineage.standing, lineage.run_id) == ("missing", "run-7")
    described(model)
    lineage = observed_model(str(model)).lineage
    assert lineage is not None
    assert (lineage.standing, lineage.run_id) == ("unverified", "run-8")
