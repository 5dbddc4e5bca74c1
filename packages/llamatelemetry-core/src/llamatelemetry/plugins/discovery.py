"""Which plugins are installed, read from metadata alone.

``importlib.metadata.entry_points()`` fails as a whole when one distribution has a malformed
``entry_points.txt``. Here each distribution is read on its own, and those that do not name the
group are not parsed at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions
from itertools import chain

from llamatelemetry.plugins.faults import ANY_FAULT, describe
from llamatelemetry.plugins.hookspecs import PROJECT


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A plugin that some distribution declares.

    Attributes:
        name: Name of its entry point.
        distribution: Distribution that declares it.
        version: Version of that distribution.
        requires: Requirements of that distribution, as declared.
        entry_point: How to import it; None when the metadata could not be read.
        problem: Why it could not; None when it could.
    """

    name: str
    distribution: str
    version: str
    requires: tuple[str, ...] = ()
    entry_point: EntryPoint | None = None
    problem: str | None = None


def find_candidates() -> list[Candidate]:
    """Every declared plugin, by name.

    Of two copies of a distribution the one first on ``sys.path`` counts, as it does for imports.
    Two distributions that use one plugin name both stay in the list.
    """
    found: dict[str, list[Candidate]] = {}
    for distribution in distributions():
        candidates = _candidates_of(distribution)
        if candidates:
            found.setdefault(candidates[0].distribution.lower().replace("_", "-"), candidates)
    return sorted(chain.from_iterable(found.values()), key=lambda item: (item.name, item.distribution))


def _candidates_of(distribution: Distribution) -> list[Candidate]:
    try:
        declared = distribution.read_text("entry_points.txt")
    except (OSError, UnicodeError):
        return []  # Unreadable files of other people's distributions are not ours to report.
    if declared is None or f"[{PROJECT}]" not in declared:
        return []
    try:
        name, version = distribution.metadata["Name"], distribution.version
        requires = tuple(distribution.requires or ())
        entry_points = tuple(distribution.entry_points.select(group=PROJECT))
        if not name or not version:
            raise ValueError("it has no name or no version")
    except ANY_FAULT as error:  # Broken metadata raises almost anything, depending on the Python version.
        place = str(distribution.locate_file(""))
        return [
            Candidate(
                name="unreadable",
                distribution=f"a distribution in {place}",
                version="unknown",
                problem=f"its metadata cannot be read: {describe(error)}",
            )
        ]
    return [
        Candidate(name=entry_point.name, distribution=name, version=version, requires=requires, entry_point=entry_point)
        for entry_point in entry_points
    ]
