"""Models in several files: where the other parts are, and whether all of them are what their manifests say.

gguf-split numbers its parts in their names, and llama.cpp finds the others by the name of the first. The run that
made a model is written into the first alone, so a part that was exchanged changes nothing there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from llamatelemetry.artifacts.evidence import Evidence, evidence_of
from llamatelemetry.artifacts.lineage import ModelLineage
from llamatelemetry.errors import ModelFileError
from llamatelemetry.llama.gguf import GgufFile

__all__ = ["judged_with_parts", "other_parts"]

_PART: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def other_parts(first: GgufFile) -> tuple[Path, ...]:
    """Where the parts after the first are; none of a model in one file. They need not be there.

    Raises:
        ModelFileError: It is a part other than the first, or its name does not lead to the others.
    """
    count = first.metadata.get("split.count")
    if not isinstance(count, int) or count <= 1:
        return ()
    named = _PART.fullmatch(first.path.name)
    if named is None or int(named["number"]) != 1 or int(named["count"]) != count:
        wanted = f"NAME-00001-of-{count:05d}.gguf"
        raise ModelFileError(first.path, f"is one of {count} parts: give the first, whose name ends like {wanted}")
    names = (f"{named['stem']}-{number:05d}-of-{count:05d}.gguf" for number in range(2, count + 1))
    return tuple(first.path.with_name(name) for name in names)


def judged_with_parts(
    lineage: ModelLineage, first: Evidence, parts: Sequence[Path], digest_of: Callable[[Path], str | None]
) -> ModelLineage:
    """What is known of a model's origin, once its other parts were looked at too.

    Args:
        lineage: What the first part says.
        first: What speaks for that.
        parts: The others.
        digest_of: The digest of a part; None if nobody computes it.
    """
    if first.described is None or lineage.standing not in {"verified", "unverified"}:
        return lineage
    wanted = first.described.manifest.origin
    doubt = lineage.problem
    for path in parts:
        evidence = evidence_of(path, {})
        told = evidence.judge(digest_of(path) if evidence.there else None)
        if told is None:
            doubt = doubt or f"no manifest describes its part {path.name}"
        elif told.standing == "tampered":
            return ModelLineage(standing="tampered", problem=f"part {path.name}: {told.problem}")
        elif evidence.described is not None and evidence.described.manifest.origin != wanted:
            problem = f"part {path.name} was made by another run or another stage: do not use it"
            return ModelLineage(standing="tampered", problem=problem)
        else:
            doubt = doubt or (told.problem and f"part {path.name}: {told.problem}")
    if not doubt:
        return lineage
    return ModelLineage(
        standing="unverified",
        run_id=lineage.run_id,
        trace_id=lineage.trace_id,
        span_id=lineage.span_id,
        problem=doubt,
    )
