"""What an artifact is made of and where it came from, as one value.

A manifest has two digests. :attr:`ArtifactManifest.digest` is that of its own bytes and names it, time
and trace included: children point at it. :attr:`ArtifactManifest.content_digest` is that of its files
alone and stays the same when a stage is run again and makes the same. A third,
:attr:`ArtifactManifest.recipe_digest`, is that of what decides the outcome: stage, parameters, tools and
what went in. A runner that knows a recipe can look for what it made before.

The file also carries a seal, the digest of all else in it, so that a manifest that nothing points at
notices a flipped byte of its own. It is no signature: :mod:`llamatelemetry.artifacts.signing` makes one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from llamatelemetry.artifacts import checks
from llamatelemetry.artifacts.canonical import canonical_json, sha256_of_json
from llamatelemetry.artifacts.timestamps import format_time
from llamatelemetry.errors import InvalidManifestError

FORMAT: Final = "llamatelemetry.artifact"
VERSION: Final = 1
MAX_MANIFEST_BYTES: Final = 16 * 2**20
"""Manifests are not larger, and larger files are not read. One takes about 180 bytes for each file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactFile:
    """One file of an artifact.

    Attributes:
        path: Where it stands in the artifact, with forward slashes; the file's name where the artifact is one file.
        size_bytes: Its size.
        sha256: SHA-256 of its bytes, in lower-case hexadecimal.
        media_type: What it holds, for example ``application/json``.
    """

    path: str
    size_bytes: int
    sha256: str
    media_type: str = "application/octet-stream"

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            InvalidManifestError: A field cannot be used.
        """
        checks.relative_path("path", self.path)
        checks.count("size_bytes", self.size_bytes)
        checks.sha256("sha256", self.sha256)
        checks.text("media_type", self.media_type)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactParent:
    """An artifact that another one was made from.

    Attributes:
        role: What it was to the stage, for example ``model`` or ``dataset``.
        name: Its name.
        digest: Digest of its manifest.
        content_digest: Digest of its files.
    """

    role: str
    name: str
    digest: str
    content_digest: str

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            InvalidManifestError: A field cannot be used.
        """
        checks.text("role", self.role)
        checks.text("name", self.name)
        checks.sha256("digest", self.digest)
        checks.sha256("content_digest", self.content_digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactOrigin:
    """The run that made an artifact; whatever is not known is left empty.

    Attributes:
        stage: The pipeline stage, for example ``quantize``.
        run_id: The pipeline run.
        trace_id: The trace, 32 lower-case hexadecimal digits as W3C Trace Context has them.
        span_id: The span in it, 16 digits.
        git_commit: Commit of the code that ran.
        started_ns: When the stage began, in nanoseconds since the Unix epoch.
    """

    stage: str = ""
    run_id: str = ""
    trace_id: str = ""
    span_id: str = ""
    git_commit: str = ""
    started_ns: int | None = None

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            InvalidManifestError: A field cannot be used.
        """
        checks.text("stage", self.stage, empty=True)
        checks.text("run_id", self.run_id, empty=True)
        checks.trace_context(self.trace_id, self.span_id)
        checks.git_commit("git_commit", self.git_commit)
        if self.started_ns is not None:
            checks.count("started_ns", self.started_ns)

    @property
    def traceparent(self) -> str:
        """The span as a W3C ``traceparent``, sampled; empty where there is none."""
        return f"00-{self.trace_id}-{self.span_id}-01" if self.trace_id and self.span_id else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactManifest:
    """What an artifact is made of and where it came from.

    Attributes:
        name: What people call it.
        kind: What it is: ``checkpoint``, ``adapter``, ``gguf``, ``dataset``, ``report`` or a word of one's own.
        files: Its files; kept in the order of their paths.
        created_ns: When it was made, in nanoseconds since the Unix epoch.
        is_folder: True where the artifact is a folder, False where it is one file.
        parents: What it was made from, in the order it was given.
        origin: The run that made it.
        parameters: What the stage was told, as JSON: text, numbers, booleans, None, lists, objects.
        tools: Names of the tools that made it to their versions.
    """

    name: str
    kind: str
    files: tuple[ArtifactFile, ...]
    created_ns: int
    is_folder: bool
    parents: tuple[ArtifactParent, ...] = ()
    origin: ArtifactOrigin = ArtifactOrigin()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks every field, and brings the files into order.

        Raises:
            InvalidManifestError: A field cannot be used.
        """
        checks.text("name", self.name)
        checks.kind("kind", self.kind)
        checks.count("created_ns", self.created_ns)
        ordered = tuple(sorted(self.files, key=lambda file: file.path.split("/")))
        checks.paths_together("files", [file.path for file in ordered])
        if not self.is_folder and (len(ordered) != 1 or "/" in ordered[0].path):
            raise InvalidManifestError("files", len(ordered), "an artifact that is no folder is one file")
        for name, version in self.tools.items():
            checks.text("tools", name)
            checks.text(f"tools.{name}", version)
        # Both copied through JSON, so that nobody's later change reaches in and equal means equal bytes.
        object.__setattr__(self, "files", ordered)
        object.__setattr__(self, "parameters", checks.copied_object("parameters", self.parameters))
        object.__setattr__(self, "tools", checks.copied_object("tools", self.tools))

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def digest(self) -> str:
        """SHA-256 of :meth:`to_bytes`: the name of this manifest."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def content_digest(self) -> str:
        """SHA-256 of the canonical list of path, SHA-256 and size of every file."""
        return content_digest(self.files)

    @property
    def recipe_digest(self) -> str:
        """What :func:`recipe_digest` gives for this artifact's stage, parameters, tools and parents."""
        return recipe_digest(
            stage=self.origin.stage, parameters=self.parameters, tools=self.tools, parents=self.parents
        )

    def as_parent(self, role: str) -> ArtifactParent:
        """This artifact as the parent of another.

        Raises:
            InvalidManifestError: The role is empty.
        """
        return ArtifactParent(role=role, name=self.name, digest=self.digest, content_digest=self.content_digest)

    def to_data(self) -> dict[str, Any]:
        """The manifest as JSON has it, but for the seal; of the origin, what is empty is left out."""
        origin = self.origin
        made_by = {
            "stage": origin.stage,
            "run_id": origin.run_id,
            "trace_id": origin.trace_id,
            "span_id": origin.span_id,
            "git_commit": origin.git_commit,
            "started_at": "" if origin.started_ns is None else format_time(origin.started_ns),
        }
        return {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "kind": self.kind,
            "layout": "folder" if self.is_folder else "file",
            "created_at": format_time(self.created_ns),
            "files": [
                {
                    "path": file.path,
                    "size_bytes": file.size_bytes,
                    "sha256": file.sha256,
                    "media_type": file.media_type,
                }
                for file in self.files
            ],
            "parents": [
                {
                    "role": parent.role,
                    "name": parent.name,
                    "digest": parent.digest,
                    "content_digest": parent.content_digest,
                }
                for parent in self.parents
            ],
            "origin": {name: text for name, text in made_by.items() if text},
            "parameters": dict(self.parameters),
            "tools": dict(self.tools),
        }

    def to_bytes(self) -> bytes:
        """The manifest's file: :meth:`to_data` and its seal as RFC 8785 writes them. Equal manifests have equal bytes.

        Raises:
            InvalidManifestError: It would be larger than :data:`MAX_MANIFEST_BYTES`.
        """
        data = self.to_data()
        content = canonical_json({**data, "seal": sha256_of_json(data, field="manifest")}, field="manifest")
        if len(content) > MAX_MANIFEST_BYTES:
            fix = f"a manifest has at most {MAX_MANIFEST_BYTES} bytes; name fewer files, or pass less as parameters"
            raise InvalidManifestError("size_bytes", len(content), fix)
        return content


def content_digest(files: Sequence[ArtifactFile]) -> str:
    """SHA-256 of the canonical JSON list of path, SHA-256 and size of every file, in the order of paths."""
    ordered = sorted(files, key=lambda file: file.path.split("/"))
    listing = [{"path": file.path, "sha256": file.sha256, "size_bytes": file.size_bytes} for file in ordered]
    return sha256_of_json(listing, field="files")


def recipe_digest(
    *,
    stage: str,
    parameters: Mapping[str, Any],
    tools: Mapping[str, str],
    parents: Sequence[ArtifactParent],
) -> str:
    """SHA-256 of all that decides what a stage makes, which is known before it runs.

    Of a parent its role and content count, not its name, its time or its trace: a parent that was made
    again and came out the same leaves the recipe as it was. Parents count in the order given.

    Raises:
        InvalidManifestError: A parameter is nothing that JSON has.
    """
    inputs = [{"role": parent.role, "content_digest": parent.content_digest} for parent in parents]
    recipe = {"stage": stage, "parameters": parameters, "tools": tools, "inputs": inputs}
    return sha256_of_json(recipe, field="recipe")
