"""Artifacts that the tests of this room share: one file, and a folder of several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llamatelemetry.artifacts.files import create_manifest
from llamatelemetry.artifacts.manifest import ArtifactManifest, ArtifactOrigin, ArtifactParent

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"


class Standing:
    """A clock that stands still."""

    def time_ns(self) -> int:
        return 1_764_000_000_123_456_789

    def monotonic_ns(self) -> int:
        return 0


Described = Callable[..., ArtifactManifest]


@pytest.fixture
def described() -> Described:
    """Makes a manifest that has everything a manifest can say."""

    def make(path: Path, *, kind: str = "checkpoint", parents: tuple[ArtifactParent, ...] = ()) -> ArtifactManifest:
        return create_manifest(
            path,
            kind=kind,
            parents=parents,
            origin=ArtifactOrigin(
                stage="finetune",
                run_id="run-7",
                trace_id=TRACE_ID,
                span_id=SPAN_ID,
                git_commit="a" * 40,
                started_ns=1_764_000_000_000_000_000,
            ),
            parameters={"steps": 12, "rate": 2e-4, "layers": ["q", "v"], "note": "für alle"},
            tools={"torch": "2.13.0"},
            clock=Standing(),
        )

    return make


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(range(256)) * 10)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint"
    (path / "sub" / "deep").mkdir(parents=True)
    (path / "config.json").write_text('{"a": 1}')
    (path / "model.safetensors").write_bytes(b"\x00" * 4096)
    (path / "sub" / "a.txt").write_text("")
    (path / "sub" / "deep" / "ü.bin").write_bytes(b"x")
    (path / "sub.txt").write_text("stands before what is in sub")
    return path
