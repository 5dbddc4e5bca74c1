from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamatelemetry.artifacts.canonical import canonical_json, sha256_of_json
from llamatelemetry.artifacts.manifest import (
    MAX_MANIFEST_BYTES,
    ArtifactFile,
    ArtifactManifest,
    ArtifactOrigin,
    ArtifactParent,
)
from llamatelemetry.artifacts.parsing import MAX_VALUES, parse_manifest
from llamatelemetry.errors import InvalidManifestError

MOST_MEMORY_MIB = 320
MANIFEST = ArtifactManifest(
    name="SmolLM2",
    kind="checkpoint",
    files=(
        ArtifactFile(path="config.json", size_bytes=8, sha256="a" * 64, media_type="application/json"),
        ArtifactFile(path="sub/ü.bin", size_bytes=0, sha256="b" * 64),
    ),
    created_ns=1_764_000_000_123_456_789,
    is_folder=True,
    parents=(ArtifactParent(role="model", name="base", digest="c" * 64, content_digest="d" * 64),),
    origin=ArtifactOrigin(
        stage="finetune",
        run_id="run-7",
        trace_id="0af7651916cd43dd8448eb211c80319c",
        span_id="b7ad6b7169203331",
        git_commit="a" * 40,
        started_ns=1,
    ),
    parameters={"rate": 2e-4, "layers": ["q", "v"], "large": 1e16, "note": "für alle"},
    tools={"torch": "2.13.0"},
)
CONTENT = MANIFEST.to_bytes()

READS_IN_BOUNDS = """
import resource, sys, time
from pathlib import Path
from llamatelemetry.artifacts.parsing import parse_manifest
from llamatelemetry.errors import InvalidManifestError
content = Path(sys.argv[1]).read_bytes()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.process_time()
try:
    parse_manifest(content, path="hostile")
    print("accepted")
except InvalidManifestError as error:
    took = time.process_time() - started
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, took, len(str(error)), error.path)
"""


def sealed(change: dict[str, Any]) -> bytes:
    """The manifest with fields replaced, sealed again as somebody would who wants it to be believed."""
    data = MANIFEST.to_data() | change
    return canonical_json({**data, "seal": sha256_of_json(data)})


def test_what_was_written_is_read_as_it_was() -> None:
    assert parse_manifest(CONTENT) == MANIFEST
    assert sealed({}) == CONTENT


@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_flipped_bit_anywhere_in_a_manifest_is_noticed_and_the_file_named(place: int, mask: int) -> None:
    damaged = bytearray(CONTENT)
    damaged[place] ^= mask
    with pytest.raises(InvalidManifestError, match=r"^folder/a\.manifest\.json: ") as caught:
        parse_manifest(bytes(damaged), path="folder/a.manifest.json")
    assert caught.value.path == "folder/a.manifest.json"


@given(st.integers(0, len(CONTENT)), st.binary(max_size=8), st.integers(0, 8))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_bytes_put_in_or_taken_out_are_noticed(place: int, put_in: bytes, taken: int) -> None:
    damaged = CONTENT[:place] + put_in + CONTENT[place + taken :]
    if damaged == CONTENT:
        return
    with pytest.raises(InvalidManifestError):
        parse_manifest(damaged)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(MANIFEST.to_data())), json_values)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_json_in_any_field_is_read_or_refused_by_one_error_that_names_it(field: str, value: Any) -> None:
    data = json.loads(CONTENT) | {field: value}
    try:
        read = parse_manifest(json.dumps(data).encode())
    except InvalidManifestError:
        return
    assert read.to_bytes() == json.dumps(data).encode()


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_are_refused_by_one_error(content: bytes) -> None:
    with pytest.raises(InvalidManifestError):
        parse_manifest(content)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"version": 2}, "version"),
        ({"format": "other"}, "format"),
        ({"layout": "link"}, "layout"),
        ({"created_at": "yesterday"}, "created_at"),
        ({"created_at": 5}, "created_at"),
        ({"files": {}}, "files"),
        ({"files": [5]}, "files[0]"),
        ({"files": [{"path": "a"}]}, "files[0].media_type"),
        ({"parents": [{**MANIFEST.to_data()["parents"][0], "digest": "x"}]}, "parents[0].digest"),
        ({"origin": {"trace_id": "x"}}, "origin.trace_id"),
        ({"origin": {"started_at": 1}}, "origin.started_at"),
        ({"origin": {"colour": "red"}}, "origin.colour"),
        ({"colour": "red"}, "manifest.colour"),
        ({"parameters": []}, "parameters"),
        ({"tools": {"torch": 2}}, "tools.torch"),
    ],
)
def test_an_error_names_the_field_that_is_wrong(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidManifestError) as caught:
        parse_manifest(sealed(change), path="x")
    assert caught.value.field == field


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../../b", "C:\\x"])
def test_a_sealed_manifest_whose_file_leads_out_of_its_folder_is_refused(path: str) -> None:
    files = [{**MANIFEST.to_data()["files"][0], "path": path}]
    with pytest.raises(InvalidManifestError) as caught:
        parse_manifest(sealed({"files": files}), path="x")
    assert caught.value.field == "files[0].path"


@pytest.mark.parametrize("name", ["seal", "files", "name"])
def test_a_field_that_is_missing_is_named(name: str) -> None:
    data = json.loads(CONTENT)
    del data[name]
    with pytest.raises(InvalidManifestError, match=f"manifest.{name}"):
        parse_manifest(json.dumps(data).encode())


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(json.loads(CONTENT)).encode(),
        CONTENT + b"\n",
        b"\xef\xbb\xbf" + CONTENT,
        CONTENT.replace("ü".encode(), b"\\u00fc", 1),
        CONTENT.replace(b'"version":1', b'"version":1.0'),
        CONTENT.replace(b'{"created_at"', b'{"version":1,"created_at"'),
        CONTENT.decode().encode("utf-16"),
    ],
    ids=["spaced", "line", "mark", "escaped", "number", "twice", "utf-16"],
)
def test_the_same_content_in_another_form_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidManifestError):
        parse_manifest(content)


FULL = MAX_MANIFEST_BYTES
HEAD = CONTENT.partition(b'"parameters":')[0] + b'"parameters":'

# Small and large content that costs a careless reader much; each of a size that is still read, or just past.
HOSTILE: dict[str, Callable[[], bytes]] = {
    "deep lists": lambda: b"[" * (FULL // 2),
    "deep objects": lambda: b'{"a":' * (MAX_VALUES - 1),
    "many empty lists": lambda: b"[" + b"[]," * (FULL // 3 - 2) + b"[]]",
    "as many values as pass": lambda: b"[" + b"[]," * (MAX_VALUES // 2 - 4) + b"[]]",
    "many numbers": lambda: b"[" + b"1," * (FULL // 2 - 2) + b"1]",
    "a long number": lambda: b"[" + b"1" * (FULL - 2) + b"]",
    "a long fraction": lambda: b"[0." + b"1" * (FULL - 4) + b"]",
    "a large exponent": lambda: b"[1e999999999]",
    "one text of wide characters": lambda: b'["' + b"a" * (FULL - 10) + "😀".encode() + b'"]',
    "one text of escapes": lambda: b'["' + b"\\u0041" * (FULL // 6 - 2) + b'"]',
    "half a pair": lambda: b'["\\ud800"]',
    "equal names": lambda: b"{" + b'"a":1,' * (MAX_VALUES - 2) + b'"a":1}',
    "names that differ": lambda: b"{" + b"".join(b'"%d":1,' % n for n in range(MAX_VALUES - 2)) + b'"a":1}',
    "deep in the parameters": lambda: HEAD + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
    "zeros": lambda: bytes(FULL),
    "noise": lambda: random.Random(5).randbytes(FULL),
    "too large": lambda: b" " * (FULL + 1),
    "nothing": lambda: b"",
    "not a number": lambda: b'{"a":NaN}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_content_is_refused_within_bounds_of_memory_and_time(name: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.manifest.json"
    path.write_bytes(HOSTILE[name]())
    done = subprocess.run(
        [sys.executable, "-c", READS_IN_BOUNDS, path], capture_output=True, text=True, timeout=60, check=True
    )
    memory_mib, took_s, message_length, named = done.stdout.split()
    assert int(memory_mib) <= MOST_MEMORY_MIB
    assert float(took_s) <= 20
    assert int(message_length) <= 500
    assert named == "hostile"
