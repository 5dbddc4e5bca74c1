"""How every benchmark here speaks: a table for people, one JSON object with ``--json``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured figure.

    Attributes:
        name: What was measured.
        value: How much.
        unit: Of what.
        baseline: The same figure of what it is compared with, measured in this run.
        budget: Most, or for a ratio of throughput least, that was promised.
    """

    name: str
    value: float
    unit: str
    baseline: float | None = None
    budget: str = ""

    @property
    def ratio(self) -> float | None:
        """The value over its baseline."""
        return self.value / self.baseline if self.baseline else None


def report(title: str, rows: Sequence[Row]) -> None:
    """Prints the rows, as a table or, if the command line says ``--json``, as JSON."""
    if "--json" in sys.argv[1:]:
        print(json.dumps({"title": title, "rows": [{**asdict(row), "ratio": row.ratio} for row in rows]}))
        return
    width = max(len(row.name) for row in rows)
    print(f"{title}\n")
    print(f"{'':{width}}  {'measured':>12} {'unit':<10} {'baseline':>12} {'ratio':>8}  budget")
    for row in rows:
        baseline = "" if row.baseline is None else f"{row.baseline:.3f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
        print(f"{row.name:{width}}  {row.value:>12.3f} {row.unit:<10} {baseline:>12} {ratio:>8}  {row.budget}")
