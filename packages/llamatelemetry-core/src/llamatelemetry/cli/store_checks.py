"""What ``llamatelemetry doctor`` says of the artifacts that pipelines keep in the current folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from llamatelemetry.artifacts.kept_provenance import check_provenance, provenance_path
from llamatelemetry.artifacts.store import ArtifactStore
from llamatelemetry.cli.stores_here import stores_here
from llamatelemetry.errors import ArtifactError
from llamatelemetry.plugins import Check, CheckState

_SHOWN: Final = 10


def checks(folder: Path | None = None) -> list[Check]:
    """Reads every manifest of a store, and the provenance beside it. The artifacts themselves are not read.

    Args:
        folder: The store; those in the current folder when None. Nothing is said of none.
    """
    places = stores_here() if folder is None else (folder,)
    return [check for place in places if place.is_dir() for check in _checks_of(place)]


def _checks_of(place: Path) -> list[Check]:
    store = ArtifactStore(place)
    digests = store.digests()
    broken = [each for each in (_broken(store, digest) for digest in digests) if each is not None]
    whole = f"{len(digests) - len(broken)} of {len(digests)} manifests in {place} are whole; files are not read here"
    state, fix = (CheckState.ERROR, "see below") if broken else (CheckState.OK, "")
    summary = Check(name="manifests", state=state, detail=whole, fix=fix)
    return [summary, *broken[:_SHOWN], *_rest(broken)]


def _broken(store: ArtifactStore, digest: str) -> Check | None:
    path = store.manifests_folder / f"{digest}.json"
    again = "then run the pipeline again: what it describes is made anew"
    try:
        manifest = store.get(digest)
    except ArtifactError as error:
        return Check(name=digest[:12], state=CheckState.ERROR, detail=str(error), fix=f"rm {path}; {again}")
    told = provenance_path(store, manifest)
    try:
        if told.exists():
            check_provenance(store, manifest)
    except ArtifactError as error:
        fix = f"rm {told}; then run the pipeline again: it is written anew"
        return Check(name=digest[:12], state=CheckState.ERROR, detail=str(error), fix=fix)
    return None


def _rest(broken: list[Check]) -> list[Check]:
    more = len(broken) - _SHOWN
    if more <= 0:
        return []
    return [Check(name="...", state=CheckState.ERROR, detail=f"{more} more are broken", fix="mend those above first")]
