"""The digest of a served model's file, and which run made it, said once where that cannot be believed."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

from llamatelemetry.artifacts.evidence import evidence_of
from llamatelemetry.artifacts.lineage import ModelLineage
from llamatelemetry.errors import ModelFileError
from llamatelemetry.llama.gguf import GgufFile, sha256_of
from llamatelemetry.llama.split_files import judged_with_parts, other_parts

_log = logging.getLogger(__name__)


def origin(path: Path, gguf: GgufFile, *, sha256: bool | None) -> tuple[str | None, ModelLineage | None]:
    """Digest of a model file and the run that made it, each None where it is not known.

    Of a model in several files the digest is the first one's, and the run is believed only if every file is what
    its manifest says.

    What does not hold is logged and the model is used all the same: whoever must not use it asks
    ``llamatelemetry manifest verify`` first.

    Args:
        path: The file; of several, the first.
        gguf: Its header.
        sha256: Whether to compute the digest; when None, where anything says which run made the file.

    Raises:
        ModelFileError: The digest was asked for, and the file cannot be read.
    """
    evidence = evidence_of(path, gguf.metadata)
    wanted = bool(sha256 or (sha256 is None and evidence.there))
    digest = _digest_or_none(path, wanted=wanted, needed=bool(sha256))
    lineage = evidence.judge(digest)
    if lineage is not None:
        parts = _parts(gguf)
        lineage = judged_with_parts(
            lineage, evidence, parts, lambda part: _digest_or_none(part, wanted=wanted, needed=False)
        )
    if lineage is not None and lineage.problem:
        _log.warning("the origin of model %s is %s: %s", path, lineage.standing, lineage.problem)
    return digest, lineage


def _digest_or_none(path: Path, *, wanted: bool, needed: bool) -> str | None:
    if not wanted:
        return None
    try:
        return _digest(path, _state(path))
    except ModelFileError:
        if needed:
            raise
        return None


def _parts(gguf: GgufFile) -> tuple[Path, ...]:
    """The other files of the model; none where their names cannot be known, which loading it says."""
    try:
        return other_parts(gguf)
    except ModelFileError:
        return ()


@lru_cache(maxsize=128)
def _digest(path: Path, _state: tuple[int, ...]) -> str:
    """Computed once for as long as the file stays as it is: a server that is started again waits for nothing."""
    return sha256_of(path)


def _state(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()  # Reading it says what is wrong.
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
