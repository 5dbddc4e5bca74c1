"""Models in several files, as upstream's package splits them: every file counts for where they come from."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest

from llamatelemetry.artifacts.files import create_manifest, manifest_path, write_manifest
from llamatelemetry.artifacts.lineage import Lineage, ModelLineage
from llamatelemetry.artifacts.manifest import ArtifactOrigin
from llamatelemetry.artifacts.store import ArtifactStore
from llamatelemetry.errors import ModelFileError
from llamatelemetry.llama.gguf import read_gguf, sha256_of
from llamatelemetry.llama.model_origin import origin
from llamatelemetry.llama.split_files import other_parts

LINEAGE = Lineage(run_id="run-7", trace_id="0af7651916cd43dd8448eb211c80319c", span_id="b7ad6b7169203331")
MADE_BY = ArtifactOrigin(stage="quantize", run_id="run-8", trace_id="1" * 32, span_id="2" * 16)
VERIFIED = ModelLineage(standing="verified", run_id="run-8", trace_id="1" * 32, span_id="2" * 16)
NAMES = [f"model-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model in three files, the first of which names a run."""
    made = tmp_path / "model"
    made.mkdir()
    writer = gguf.GGUFWriter(made / "model.gguf", "llama", split_max_tensors=1)
    for key, value in LINEAGE.metadata().items():
        writer.add_string(key, value)
    for number in range(3):
        writer.add_tensor(f"blk.{number}.attn_q.weight", np.full((32, 32), number, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert sorted(path.name for path in made.iterdir()) == NAMES
    return made


def ask(first: Path, *, sha256: bool | None = None) -> ModelLineage | None:
    return origin(first, read_gguf(first), sha256=sha256)[1]


def flip(path: Path) -> None:
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def described(folder: Path, made_by: ArtifactOrigin = MADE_BY) -> None:
    write_manifest(create_manifest(folder, kind="gguf", origin=made_by), folder)


def test_the_first_file_leads_to_the_others(folder: Path) -> None:
    assert other_parts(read_gguf(folder / NAMES[0])) == (folder / NAMES[1], folder / NAMES[2])
    with pytest.raises(ModelFileError, match="give the first"):
        other_parts(read_gguf(folder / NAMES[1]))


def test_a_manifest_of_the_folder_proves_the_run_of_all_files(folder: Path) -> None:
    assert ask(folder / NAMES[0]) == ModelLineage(
        standing="missing",
        run_id="run-7",
        trace_id=LINEAGE.trace_id,
        span_id=LINEAGE.span_id,
        problem="it names the run that made it, and no manifest describes it: the name is not proved",
    )
    described(folder)
    digest, lineage = origin(folder / NAMES[0], read_gguf(folder / NAMES[0]), sha256=None)
    assert lineage == VERIFIED
    assert digest == sha256_of(folder / NAMES[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_byte_in_any_file_is_said_and_leads_nowhere(folder: Path, name: str) -> None:
    described(folder)
    flip(folder / name)
    lineage = ask(folder / NAMES[0])
    assert lineage is not None
    assert (lineage.standing, lineage.run_id, lineage.trace_id) == ("tampered", "", "")
    assert "it has the SHA-256" in lineage.problem
    assert name == NAMES[0] or name in lineage.problem


def test_it_is_the_same_in_a_store(folder: Path, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    place = store.add(create_manifest(folder, kind="gguf", origin=MADE_BY), folder)
    assert ask(place / NAMES[0]) == VERIFIED
    place.chmod(0o755)
    flip(place / NAMES[2])
    lineage = ask(place / NAMES[0])
    assert lineage is not None
    assert lineage.standing == "tampered"
    assert NAMES[2] in lineage.problem


def test_files_with_manifests_of_their_own_must_be_of_one_run(folder: Path) -> None:
    for name in NAMES:
        described(folder / name)
    assert ask(folder / NAMES[0]) == VERIFIED
    manifest_path(folder / NAMES[1]).unlink()
    described(folder / NAMES[1], ArtifactOrigin(stage="quantize", run_id="run-9", trace_id="3" * 32, span_id="4" * 16))
    lineage = ask(folder / NAMES[0])
    assert lineage is not None
    assert (lineage.standing, lineage.run_id) == ("tampered", "")
    assert "was made by another run" in lineage.problem


def test_a_file_that_no_manifest_describes_leaves_doubt(folder: Path) -> None:
    described(folder / NAMES[0])
    described(folder / NAMES[1])
    lineage = ask(folder / NAMES[0])
    assert lineage is not None
    assert (lineage.standing, lineage.run_id) == ("unverified", "run-8")
    assert f"no manifest describes its part {NAMES[2]}" in lineage.problem


def test_what_is_not_hashed_or_not_there_is_not_verified(folder: Path) -> None:
    described(folder)
    lineage = ask(folder / NAMES[0], sha256=False)
    assert lineage is not None
    assert lineage.standing == "unverified"
    (folder / NAMES[1]).unlink()
    lineage = ask(folder / NAMES[0])
    assert lineage is not None
    assert lineage.standing == "unverified"
    assert NAMES[1] in lineage.problem


def test_a_manifest_of_fewer_files_says_that_one_was_added(folder: Path, tmp_path: Path) -> None:
    fewer = tmp_path / "fewer" / "model"
    shutil.copytree(folder, fewer)
    (fewer / NAMES[2]).rename(tmp_path / NAMES[2])
    described(fewer)
    (tmp_path / NAMES[2]).rename(fewer / NAMES[2])
    lineage = ask(fewer / NAMES[0])
    assert lineage is not None
    assert lineage.standing == "tampered"
    assert NAMES[2] in lineage.problem
