"""What a model file says, in its own metadata, of the run that made it.

Exporters write these keys and backends read them, so the names stand here only. A file alone can be
followed back with them; that they are true only a manifest says, which is why nobody takes them for
proof: see :mod:`llamatelemetry.artifacts.evidence`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from llamatelemetry.artifacts import checks
from llamatelemetry.artifacts.manifest import ArtifactOrigin
from llamatelemetry.errors import InvalidManifestError

RUN_ID_KEY: Final = "llamatelemetry.lineage.run_id"
"""The pipeline run."""
TRACE_ID_KEY: Final = "llamatelemetry.lineage.trace_id"
"""The trace, 32 lower-case hexadecimal digits."""
SPAN_ID_KEY: Final = "llamatelemetry.lineage.span_id"
"""The stage's span in it, 16 digits."""
PARENT_DIGEST_KEY: Final = "llamatelemetry.lineage.parent_digest"
"""Digest of the manifest of what the weights were made from. A file cannot hold its own."""
LINEAGE_KEYS: Final = (RUN_ID_KEY, TRACE_ID_KEY, SPAN_ID_KEY, PARENT_DIGEST_KEY)
"""All of them. Whoever makes one model file out of another leaves out those of the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """The run that made a model file; whatever is not known is left empty.

    Attributes:
        run_id: The pipeline run.
        trace_id: Its trace, 32 lower-case hexadecimal digits.
        span_id: The stage's span in it, 16 digits.
        parent_digest: Digest of the manifest of what the weights were made from.
    """

    run_id: str = ""
    trace_id: str = ""
    span_id: str = ""
    parent_digest: str = ""

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            InvalidManifestError: A field cannot be used.
        """
        checks.text("run_id", self.run_id, empty=True)
        checks.trace_context(self.trace_id, self.span_id)
        if self.parent_digest:
            checks.sha256("parent_digest", self.parent_digest)

    def metadata(self) -> dict[str, str]:
        """Keys and texts to write into a model file; what is not known is left out."""
        values = (self.run_id, self.trace_id, self.span_id, self.parent_digest)
        return {key: value for key, value in zip(LINEAGE_KEYS, values, strict=True) if value}


Standing = Literal["verified", "unverified", "missing", "tampered"]
"""``verified``: the file is what its manifest says. ``unverified``: nobody computed its digest. ``missing``: it
names a run, and no manifest describes it. ``tampered``: it, its manifest or its metadata is not what was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLineage:
    """Where a model came from. The ids are empty where nothing is known or what is said was refuted.

    Attributes:
        standing: How far it can be believed.
        run_id: The pipeline run.
        trace_id: The trace of it, 32 lower-case hexadecimal digits.
        span_id: The span that made the file, 16 digits.
        problem: What is wrong, in a sentence; empty where nothing is.
    """

    standing: Standing
    run_id: str = ""
    trace_id: str = ""
    span_id: str = ""
    problem: str = ""


def lineage_of(origin: ArtifactOrigin, parent_digest: str = "") -> Lineage:
    """What a stage writes into the model file it makes, from its own origin and the manifest of its input."""
    return Lineage(run_id=origin.run_id, trace_id=origin.trace_id, span_id=origin.span_id, parent_digest=parent_digest)


def read_lineage(metadata: Mapping[str, object]) -> Lineage | None:
    """What a model file's metadata says of its run; None where it says nothing.

    Raises:
        InvalidManifestError: A key holds what no exporter of ours writes; the error names it.
    """
    found = {key: metadata[key] for key in LINEAGE_KEYS if key in metadata}
    for key, value in found.items():
        if not isinstance(value, str):
            raise InvalidManifestError(key, value, "it is text")
    if not found:
        return None
    run_id, trace_id, span_id, parent_digest = (str(found.get(key, "")) for key in LINEAGE_KEYS)
    try:
        return Lineage(run_id=run_id, trace_id=trace_id, span_id=span_id, parent_digest=parent_digest)
    except InvalidManifestError as error:
        raise InvalidManifestError(f"llamatelemetry.lineage.{error.field}", error.value, error.fix) from None
