"""What a pipeline was given before, so that what changed since is named: it decides all that is made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from llamatelemetry.artifacts.manifest import ArtifactManifest
from llamatelemetry.artifacts.store import ArtifactStore
from llamatelemetry.errors import LlamatelemetryError
from llamatelemetry.pipeline.nodes import GIVEN
from llamatelemetry.pipeline.outcome import RunRecord, read_record, run_ids

_LOOKS: Final = 32
"""Runs that are looked at, the latest ones: the one before is mostly of the same pipeline."""
_SHOWN: Final = 8
"""Files that are named of one input."""


def changes_since(
    store: ArtifactStore, runs: Path, record: RunRecord, given: Mapping[str, ArtifactManifest]
) -> tuple[str, ...]:
    """What stands at the same path as in the latest run of this pipeline before, and is not what it was then.

    A sentence for each input names its files that are other ones. Never raises: a record or a manifest that is
    damaged tells nothing.

    Args:
        store: Has the manifests of what was given before.
        runs: The folder of records.
        record: The run that begins.
        given: What it is given.
    """
    # Ids of runs that began in the same second are in no order.
    before = max(_runs_before(runs, record), key=lambda each: each.started_ns, default=None)
    if before is None:
        return ()
    found = []
    for name, now in given.items():
        if before.given.get(name) != record.given.get(name) or name not in before.given_digests:
            continue
        try:
            then = store.get(before.given_digests[name])
        except LlamatelemetryError:
            continue
        if differing := _differences(then, now):
            found.append(f"{GIVEN}.{name} is not what it was in run {before.run_id}: {differing}")
    return tuple(found)


def _runs_before(runs: Path, record: RunRecord) -> Iterator[RunRecord]:
    """Runs of the same pipeline that got as far as to know what they were given."""
    for run_id in [each for each in run_ids(runs) if each != record.run_id][-_LOOKS:]:
        try:
            before = read_record(runs, run_id)
        except LlamatelemetryError:
            continue
        if before.pipeline == record.pipeline and before.given_digests:
            yield before


def _differences(then: ArtifactManifest, now: ArtifactManifest) -> str:
    """Every file that is another one, in words; empty where none is."""
    were = {file.path: file.sha256 for file in then.files}
    are = {file.path: file.sha256 for file in now.files}
    words = [f"{path} is missing" for path in were if path not in are]
    words += [f"{path} was added" for path in are if path not in were]
    words += [
        f"{path} has the SHA-256 {digest[:12]}... instead of {were[path][:12]}..."
        for path, digest in are.items()
        if path in were and were[path] != digest
    ]
    more = len(words) - _SHOWN
    return ", ".join(words[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
