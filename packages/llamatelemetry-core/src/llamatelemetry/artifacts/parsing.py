"""A manifest out of bytes that anybody may have written: bounded, checked, each error naming its field.

Only the one canonical form is read. A manifest that was edited, formatted anew or written by
somebody else's program has another digest than its children know, so it is refused at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeVar

from llamatelemetry.artifacts import checks
from llamatelemetry.artifacts.canonical import MAX_DEPTH, whole_number
from llamatelemetry.artifacts.manifest import (
    FORMAT,
    MAX_MANIFEST_BYTES,
    VERSION,
    ArtifactFile,
    ArtifactManifest,
    ArtifactOrigin,
    ArtifactParent,
)
from llamatelemetry.artifacts.timestamps import parse_time
from llamatelemetry.errors import ArtifactError, InvalidManifestError

MAX_VALUES: Final = 2**19
"""Values in a manifest, about: what takes three bytes in a file takes seventy in memory."""
_FIELDS: Final = frozenset(
    {
        *("format", "version", "name", "kind", "layout", "created_at", "files", "parents", "origin"),
        *("parameters", "tools", "seal"),
    }
)
_FILE: Final = frozenset({"path", "size_bytes", "sha256", "media_type"})
_PARENT: Final = frozenset({"role", "name", "digest", "content_digest"})
_ORIGIN: Final = frozenset({"stage", "run_id", "trace_id", "span_id", "git_commit", "started_at"})
_Made = TypeVar("_Made")


def parse_manifest(content: bytes, *, path: str = "") -> ArtifactManifest:
    """The manifest that bytes hold.

    Args:
        content: The bytes of its file.
        path: Where they were read, for errors.

    Raises:
        InvalidManifestError: They hold none, or not in its canonical form; the error names the field.
    """
    try:
        manifest = _manifest(_json(content))
    except InvalidManifestError as error:
        raise InvalidManifestError(error.field, error.value, error.fix, path=path) from None
    if manifest.to_bytes() != content:
        fix = "it was damaged, edited or written by something else; create it again from its artifact"
        raise InvalidManifestError("manifest", "its bytes are not those it is sealed with", fix, path=path)
    return manifest


def _json(content: bytes) -> dict[str, Any]:
    if len(content) > MAX_MANIFEST_BYTES:
        raise InvalidManifestError("size_bytes", len(content), f"a manifest has at most {MAX_MANIFEST_BYTES} bytes")
    if (values := sum(map(content.count, (b",", b"[", b"{")))) > MAX_VALUES:
        raise InvalidManifestError("values", values, f"a manifest has at most about {MAX_VALUES}")
    try:
        value = json.loads(
            content.decode(), object_pairs_hook=_object, parse_int=whole_number, parse_constant=_not_json
        )
    except RecursionError:
        raise InvalidManifestError("manifest", "...", f"nest at most {MAX_DEPTH} objects and lists") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are, and so is an integer too long to read.
        raise InvalidManifestError("manifest", str(error), "a manifest is JSON in UTF-8") from None
    return _fields("manifest", value, _FIELDS, needed=_FIELDS)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _manifest(data: dict[str, Any]) -> ArtifactManifest:
    if data["format"] != FORMAT:
        raise InvalidManifestError("format", data["format"], f"a manifest says {FORMAT!r}")
    if data["version"] != VERSION:
        raise InvalidManifestError("version", data["version"], f"this release reads version {VERSION}; update it")
    if data["layout"] not in ("file", "folder"):
        raise InvalidManifestError("layout", data["layout"], "say file or folder")
    checks.sha256("seal", data["seal"])
    for name in ("parameters", "tools"):
        if not isinstance(data[name], dict):
            raise InvalidManifestError(name, data[name], "give names and values")
    return ArtifactManifest(
        name=data["name"],
        kind=data["kind"],
        files=_each("files", data["files"], _file),
        created_ns=_time("created_at", data["created_at"]),
        is_folder=data["layout"] == "folder",
        parents=_each("parents", data["parents"], _parent),
        origin=_origin(data["origin"]),
        parameters=data["parameters"],
        tools=data["tools"],
    )


def _each(field: str, value: object, make: Callable[[str, object], _Made]) -> tuple[_Made, ...]:
    if not isinstance(value, list):
        raise InvalidManifestError(field, value, "give a list")
    made = []
    for index, item in enumerate(value):
        where = f"{field}[{index}]"
        try:
            made.append(make(where, item))
        except InvalidManifestError as error:
            inner = error.field if error.field.startswith(where) else f"{where}.{error.field}"
            raise InvalidManifestError(inner, error.value, error.fix) from None
        except ArtifactError as error:
            raise InvalidManifestError(f"{where}.path", item, str(error)) from None
    return tuple(made)


def _file(field: str, value: object) -> ArtifactFile:
    return ArtifactFile(**_fields(field, value, _FILE, needed=_FILE))


def _parent(field: str, value: object) -> ArtifactParent:
    return ArtifactParent(**_fields(field, value, _PARENT, needed=_PARENT))


def _origin(value: object) -> ArtifactOrigin:
    found = dict(_fields("origin", value, _ORIGIN))
    started = found.pop("started_at", None)
    try:
        return ArtifactOrigin(**found, started_ns=None if started is None else _time("started_at", started))
    except InvalidManifestError as error:
        raise InvalidManifestError(f"origin.{error.field}", error.value, error.fix) from None


def _time(field: str, value: object) -> int:
    if not isinstance(value, str):
        raise InvalidManifestError(field, value, "give the time as text")
    return parse_time(field, value)


def _fields(
    field: str, value: object, known: frozenset[str], *, needed: frozenset[str] = frozenset()
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidManifestError(field, value, "give an object")
    if unknown := sorted(set(value) - known):
        # What a terminal would act on, and half a character, which cannot be written, is shown escaped.
        name = unknown[0] if unknown[0].isprintable() else repr(unknown[0])
        raise InvalidManifestError(f"{field}.{name}"[:200], value[unknown[0]], "there is no such field")
    if missing := sorted(needed - set(value)):
        raise InvalidManifestError(f"{field}.{missing[0]}", None, "the field is missing")
    return value
