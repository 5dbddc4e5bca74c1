from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamatelemetry.artifacts import checks
from llamatelemetry.errors import ArtifactError, InvalidManifestError, UnsafePathError


@pytest.mark.parametrize(
    "path",
    ["../x", "a/../../x", "/etc/passwd", "..", "a\\..\\x", "\\\\host\\share", "C:/x", "C:x", "a/file:stream", "//x"],
)
def test_a_path_that_leads_elsewhere_on_any_system_is_unsafe(path: str) -> None:
    with pytest.raises(UnsafePathError):
        checks.relative_path("path", path)


@pytest.mark.parametrize(
    "path", ["", ".", "./a", "a/", "a//b", "a/./b", "a\nb", "a\x1b[2J", "a\u202eb", "\ud800", 5, None]
)
def test_a_path_that_could_be_written_otherwise_or_is_no_line_is_invalid(path: Any) -> None:
    with pytest.raises(InvalidManifestError):
        checks.relative_path("path", path)


@given(st.text(max_size=30) | st.lists(st.sampled_from(["..", ".", "a", "/", "\\", ":", ""]), max_size=6).map("/".join))
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_path_that_passes_stays_below_where_it_starts(path: str) -> None:
    try:
        checks.relative_path("path", path)
    except ArtifactError:
        return
    assert not path.startswith("/")
    assert not {"", ".", ".."} & set(path.split("/"))
    assert not {"\\", ":", "\0"} & set(path)


@pytest.mark.parametrize("digest", ["", "a" * 63, "A" * 64, "g" * 64, "a" * 64 + "\n", None])
def test_only_64_lower_case_hexadecimal_digits_are_a_sha256(digest: Any) -> None:
    checks.sha256("sha256", "0a" * 32)
    with pytest.raises(InvalidManifestError, match="64 lower-case"):
        checks.sha256("sha256", digest)


@pytest.mark.parametrize(
    ("trace_id", "span_id"), [("0" * 32, ""), ("a" * 32, "0" * 16), ("", "b" * 16), ("A" * 32, "")]
)
def test_ids_of_nothing_and_a_span_without_its_trace_are_refused(trace_id: str, span_id: str) -> None:
    checks.trace_context("", "")
    checks.trace_context("a" * 32, "")
    checks.trace_context("a" * 32, "b" * 16)
    with pytest.raises(InvalidManifestError):
        checks.trace_context(trace_id, span_id)


@pytest.mark.parametrize("value", [-1, 2**63, True, 1.0, "1"])
def test_a_count_is_a_whole_number_that_other_programs_can_hold(value: Any) -> None:
    with pytest.raises(InvalidManifestError, match="whole number"):
        checks.count("size_bytes", value)


@pytest.mark.parametrize("kind", ["", "GGUF", "-x", "a b", "a" * 65])
def test_a_kind_is_a_word(kind: str) -> None:
    checks.kind("kind", "lora-adapter")
    with pytest.raises(InvalidManifestError):
        checks.kind("kind", kind)


@pytest.mark.parametrize("commit", ["abc", "A" * 40, "a" * 41])
def test_a_commit_is_a_whole_hash(commit: str) -> None:
    checks.git_commit("git_commit", "a" * 64)
    with pytest.raises(InvalidManifestError):
        checks.git_commit("git_commit", commit)


def test_a_file_and_a_folder_of_one_name_cannot_both_be() -> None:
    with pytest.raises(InvalidManifestError, match="a file and a folder"):
        checks.paths_together("files", ["a", "a/b"])
    with pytest.raises(InvalidManifestError, match="name each file once"):
        checks.paths_together("files", ["a", "a"])
    with pytest.raises(InvalidManifestError, match="at least one file"):
        checks.paths_together("files", [])


def test_an_object_is_copied_so_that_later_changes_stay_outside() -> None:
    given_by_caller = {"a": [1]}
    copied = checks.copied_object("parameters", given_by_caller)
    given_by_caller["a"].append(2)
    assert copied == {"a": [1]}
    with pytest.raises(InvalidManifestError):
        checks.copied_object("parameters", [1])
