"""What each field of a manifest may say; both the code that makes one and a file that holds one are held to it."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from llamatelemetry.artifacts.canonical import canonical_json, whole_number
from llamatelemetry.errors import InvalidManifestError, UnsafePathError

MAX_FILES: Final = 65_536
"""Files of an artifact. What has more is better packed into archives, which also load faster."""
MAX_TEXT: Final = 4096
"""Characters of a name, a version or a path."""
_SHA256: Final = re.compile("[0-9a-f]{64}")
_TRACE_ID: Final = re.compile("(?!0{32})[0-9a-f]{32}")
_SPAN_ID: Final = re.compile("(?!0{16})[0-9a-f]{16}")
_GIT_COMMIT: Final = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_KIND: Final = re.compile("[a-z0-9][a-z0-9._-]{0,63}")
# What a terminal would act on instead of showing, what ends a line for some programs, what turns the direction
# of text and so shows another name than the one there is, half of a character.
_NO_LINE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def text(field: str, value: object, *, empty: bool = False) -> None:
    """Holds a value to be a line of text.

    Raises:
        InvalidManifestError: It is something else, too long, has control characters, or is empty and must not be.
    """
    if not isinstance(value, str) or (not value and not empty) or len(value) > MAX_TEXT or _NO_LINE.search(value):
        raise InvalidManifestError(field, value, f"give one line of text, at most {MAX_TEXT} characters")


def count(field: str, value: object) -> None:
    """Holds a value to be a whole number from 0.

    Raises:
        InvalidManifestError: It is something else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise InvalidManifestError(field, value, "give a whole number from 0")


def sha256(field: str, value: object) -> None:
    """Holds a value to be a SHA-256.

    Raises:
        InvalidManifestError: It is something else.
    """
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise InvalidManifestError(field, value, "give a SHA-256 as 64 lower-case hexadecimal digits")


def kind(field: str, value: object) -> None:
    """Holds a value to be a kind of artifact.

    Raises:
        InvalidManifestError: It is something else.
    """
    if not isinstance(value, str) or not _KIND.fullmatch(value):
        raise InvalidManifestError(field, value, "give a word such as checkpoint, adapter, gguf, dataset or report")


def git_commit(field: str, value: object) -> None:
    """Holds a value to be a commit of git, or empty.

    Raises:
        InvalidManifestError: It is something else.
    """
    if not isinstance(value, str) or (value and not _GIT_COMMIT.fullmatch(value)):
        raise InvalidManifestError(field, value, "give the whole hash of the commit, in lower case")


def trace_context(trace_id: object, span_id: object) -> None:
    """Holds two ids to the form of W3C Trace Context, or both to be empty; a trace may come without a span.

    Raises:
        InvalidManifestError: One has another form, or a span has no trace.
    """
    if not isinstance(trace_id, str) or (trace_id and not _TRACE_ID.fullmatch(trace_id)):
        raise InvalidManifestError("trace_id", trace_id, "give 32 lower-case hexadecimal digits, not all 0")
    if not isinstance(span_id, str) or (span_id and not _SPAN_ID.fullmatch(span_id)):
        raise InvalidManifestError("span_id", span_id, "give 16 lower-case hexadecimal digits, not all 0")
    if span_id and not trace_id:
        raise InvalidManifestError("trace_id", trace_id, "give the trace of the span too")


def relative_path(field: str, value: object) -> None:
    """Holds a value to be a path that stays below where it starts, on any operating system.

    Raises:
        InvalidManifestError: It is no path, or one that could be written in another way.
        UnsafePathError: It leads elsewhere.
    """
    text(field, value)
    path = str(value)
    if "\\" in path or ":" in path:
        # A colon is a drive or a stream on Windows, where a backslash goes up as well as a slash does.
        raise UnsafePathError(repr(path), "has a backslash or a colon", "rename the file")
    parts = path.split("/")
    if path.startswith("/") or ".." in parts:
        raise UnsafePathError(repr(path), "leads out of the artifact", "give paths below its folder")
    if "" in parts or "." in parts:
        raise InvalidManifestError(field, path, "write it without ., // and a slash at its end")


def few_enough(field: str, paths: Sequence[str]) -> None:
    """Holds files to be at most :data:`MAX_FILES`.

    Raises:
        InvalidManifestError: There are more.
    """
    if len(paths) > MAX_FILES:
        raise InvalidManifestError(field, len(paths), f"an artifact has at most {MAX_FILES} files")


def paths_together(field: str, paths: Sequence[str]) -> None:
    """Holds paths, in the order of their parts, to be few enough, each there once, and none to be a folder of another.

    Raises:
        InvalidManifestError: They are not.
    """
    if not paths:
        raise InvalidManifestError(field, [], "an artifact has at least one file")
    few_enough(field, paths)
    for before, after in itertools.pairwise(paths):
        if before == after:
            raise InvalidManifestError(field, after, "name each file once")
        # What stands in a folder follows it at once in this order.
        if after.startswith(f"{before}/"):
            raise InvalidManifestError(field, before, "it cannot be a file and a folder")


def copied_object(field: str, value: object) -> dict[str, Any]:
    """A copy of a JSON object that shares nothing with it.

    Raises:
        InvalidManifestError: It is no object, or holds what JSON has not.
    """
    if not isinstance(value, Mapping):
        raise InvalidManifestError(field, value, "give names and values")
    copied: dict[str, Any] = json.loads(canonical_json(value, field=field), parse_int=whole_number)
    return copied
