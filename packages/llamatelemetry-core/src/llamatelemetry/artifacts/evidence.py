"""Which run made a model file, and how far that can be believed.

Two things may speak of it: a manifest, which the file's digest proves or refutes, and the file's own
metadata, which nothing proves. What was refuted is never passed on; what was not proved is passed on
with that said beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llamatelemetry.artifacts.lineage import Lineage, ModelLineage, Standing, read_lineage
from llamatelemetry.artifacts.lookup import DescribedFile, describe_file
from llamatelemetry.errors import ArtifactError


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What speaks of a model file's origin, before its digest was computed.

    Attributes:
        described: The manifest that describes the file.
        written: What its own metadata says.
        problem: Why what is there cannot be used; empty where it can.
    """

    described: DescribedFile | None = None
    written: Lineage | None = None
    problem: str = ""

    @property
    def there(self) -> bool:
        """True where anything speaks of the origin: then the file's digest is worth computing."""
        return bool(self.described or self.written or self.problem)

    def judge(self, sha256: str | None) -> ModelLineage | None:
        """What it comes to.

        Args:
            sha256: Digest of the file; None if nobody computed it.

        Returns:
            The origin and its standing; None where nothing speaks of one.
        """
        if not self.there:
            return None
        if self.problem:
            return ModelLineage(standing="tampered", problem=self.problem)
        if self.described is None:
            problem = "it names the run that made it, and no manifest describes it: the name is not proved"
            return _told(self.written, "missing", problem)
        file, origin = self.described.file, self.described.manifest.origin
        if sha256 is not None and sha256 != file.sha256:
            problem = f"it has the SHA-256 {sha256[:12]}... and its manifest says {file.sha256[:12]}...: do not use it"
            return ModelLineage(standing="tampered", problem=problem)
        known = Lineage(run_id=origin.run_id, trace_id=origin.trace_id, span_id=origin.span_id)
        # The digest covers the file's metadata too, so that serves where the manifest knows no span.
        chosen = known if known.span_id or self.written is None else self.written
        if sha256 is None:
            return _told(chosen, "unverified", "its digest was not compared with that of its manifest")
        return _told(chosen, "verified", "")


def evidence_of(path: Path, metadata: Mapping[str, object]) -> Evidence:
    """Looks for a manifest of a model file, and at what the file itself says. Hashes nothing, raises nothing.

    Args:
        path: The file. Where it is a symbolic link, a manifest may also stand beside what it leads to.
        metadata: Its own metadata.
    """
    try:
        described = describe_file(path) or (describe_file(path.resolve()) if path.is_symlink() else None)
    except (ArtifactError, OSError, ValueError) as error:
        return Evidence(problem=str(error))
    try:
        return Evidence(described=described, written=read_lineage(metadata))
    except ArtifactError as error:
        # Where a manifest proves the file, its odd metadata is just what was written.
        return Evidence(described=described, problem="" if described else str(error))


def _told(lineage: Lineage | None, standing: Standing, problem: str) -> ModelLineage:
    told = lineage or Lineage()
    return ModelLineage(
        standing=standing, run_id=told.run_id, trace_id=told.trace_id, span_id=told.span_id, problem=problem
    )
