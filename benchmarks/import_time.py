"""CPU time of ``import llamatelemetry`` against an interpreter that imports nothing, and the OTel SDK.

Run: python benchmarks/import_time.py [--json]
"""

from __future__ import annotations

import resource
import subprocess
import sys

from report import Row, report

REPEATS = 7


def cpu_ms(statement: str) -> float:
    """Least user and system time of a fresh interpreter that runs the statement, in milliseconds."""
    return min(_child_cpu_s(statement) for _ in range(REPEATS)) * 1e3


def _child_cpu_s(statement: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Measures and prints."""
    bare = cpu_ms("pass")
    sdk = cpu_ms("import opentelemetry.sdk.trace, opentelemetry.sdk.metrics") - bare
    ours = max(0.0, cpu_ms("import llamatelemetry") - bare)
    report(
        "Import time",
        [
            Row(
                name="import llamatelemetry, over a bare interpreter",
                value=ours,
                unit="ms CPU",
                baseline=sdk,
                budget="<= 15",
            ),
            Row(name="import of the OTel SDK, over a bare interpreter", value=sdk, unit="ms CPU"),
            Row(name="bare interpreter", value=bare, unit="ms CPU"),
        ],
    )


if __name__ == "__main__":
    main()
