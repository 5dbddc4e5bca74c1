from __future__ import annotations

from typing import Any

import pytest

from llamatelemetry.artifacts.lineage import LINEAGE_KEYS, Lineage, lineage_of, read_lineage
from llamatelemetry.artifacts.manifest import ArtifactOrigin
from llamatelemetry.errors import InvalidManifestError

TRACE_ID, SPAN_ID, DIGEST = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "c" * 64


def test_what_an_exporter_writes_a_reader_reads() -> None:
    origin = ArtifactOrigin(stage="export", run_id="run-7", trace_id=TRACE_ID, span_id=SPAN_ID)
    lineage = lineage_of(origin, DIGEST)
    assert lineage.metadata() == dict(zip(LINEAGE_KEYS, ("run-7", TRACE_ID, SPAN_ID, DIGEST), strict=True))
    assert read_lineage({"general.name": "m", **lineage.metadata()}) == lineage


def test_what_is_not_known_is_not_written() -> None:
    assert Lineage(run_id="run-7").metadata() == {"llamatelemetry.lineage.run_id": "run-7"}
    assert read_lineage(Lineage(run_id="run-7").metadata()) == Lineage(run_id="run-7")
    assert read_lineage({"general.name": "m"}) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run_id", 7),
        ("run_id", "a\x1b[2J"),
        ("trace_id", TRACE_ID.upper()),
        ("trace_id", "0" * 32),
        ("span_id", "x"),
        ("parent_digest", "../../etc/passwd"),
    ],
)
def test_what_no_exporter_writes_is_refused_and_its_key_named(key: str, value: Any) -> None:
    written: dict[str, object] = {**Lineage(trace_id=TRACE_ID).metadata(), f"llamatelemetry.lineage.{key}": value}
    with pytest.raises(InvalidManifestError, match=rf"llamatelemetry\.lineage\.{key}="):
        read_lineage(written)
