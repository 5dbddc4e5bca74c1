"""The guide to GPUs names what is emitted, as the tables say it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from llamatelemetry.config import VARIABLES
from llamatelemetry.semconv.attributes import Attribute
from llamatelemetry.semconv.gpu import GPU, GPU_RESOURCE, GPU_SECTION
from llamatelemetry.semconv.hw import GPU_METRICS
from llamatelemetry.semconv.metrics import Instrument

SECTION = tuple(row for row in GPU_SECTION if row not in GPU)


def table_after(guide: str, heading: str) -> list[str]:
    """Rows of the first table below a heading."""
    _, _, below = guide.partition(f"\n{heading}\n")
    rows = re.search(r"(?<=\| --- \|\n)(\|.*\n)+", below)
    assert rows, heading
    return rows[0].splitlines()


def rows_of(table: Iterable[Attribute | Instrument]) -> Iterator[str]:
    for row in table:
        kind = row.type if isinstance(row, Attribute) else row.kind.replace("_", " ")
        yield f"| `{row.name}` | {', '.join(filter(None, (kind, row.unit)))} | {row.brief} |"


@pytest.fixture
def guide(root: Path) -> str:
    return (root / "docs" / "gpu.md").read_text()


@pytest.mark.parametrize(
    ("heading", "table"),
    [
        ("## On each request", GPU),
        ("## Around your own code", SECTION),
        ("## Metrics", GPU_METRICS),
        ("The resource, which is on everything that is exported, names the GPUs there are:", GPU_RESOURCE),
    ],
)
def test_the_guide_lists_every_name_with_its_unit_and_meaning(
    guide: str, heading: str, table: tuple[Attribute | Instrument, ...]
):
    assert table_after(guide, heading) == list(rows_of(table))


def test_the_guide_has_every_setting_of_gpus(guide: str):
    settings = {variable.name: variable.field for variable in VARIABLES if variable.field.startswith("gpu")}
    listed = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", "\n".join(table_after(guide, "## Settings")), re.MULTILINE))

    assert listed == settings
