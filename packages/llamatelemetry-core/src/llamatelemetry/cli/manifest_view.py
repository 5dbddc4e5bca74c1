"""How manifests look: as a table, as a tree of parents, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from llamatelemetry.artifacts.graph import Ancestry
from llamatelemetry.artifacts.manifest import ArtifactManifest
from llamatelemetry.artifacts.timestamps import format_time
from llamatelemetry.distributed.sizes import counted, format_size

SHORT: Final = 12
"""Digits of a digest that are shown to people."""
FEW_FILES: Final = 12


def manifest_data(manifest: ArtifactManifest) -> dict[str, Any]:
    """A manifest as JSON, with the digests that are made from it."""
    digests = {
        "digest": manifest.digest,
        "content_digest": manifest.content_digest,
        "recipe_digest": manifest.recipe_digest,
        "size_bytes": manifest.size_bytes,
    }
    return {**digests, **manifest.to_data()}


def manifest_view(manifest: ArtifactManifest, *, all_files: bool) -> RenderableType:
    """A manifest for people."""
    origin = manifest.origin
    facts = {
        "name": manifest.name,
        "kind": manifest.kind,
        "digest": manifest.digest,
        "content": manifest.content_digest,
        "size": f"{format_size(manifest.size_bytes)} in {counted(len(manifest.files), 'file')}",
        "made": format_time(manifest.created_ns),
        "stage": origin.stage,
        "run": origin.run_id,
        "trace": origin.trace_id,
        "span": origin.span_id,
        "commit": origin.git_commit,
        "tools": ", ".join(f"{name} {version}" for name, version in sorted(manifest.tools.items())),
        "parameters": ", ".join(f"{name}={json.dumps(value)}" for name, value in sorted(manifest.parameters.items())),
    }
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            table.add_row(name, Text(value))
    for parent in manifest.parents:
        table.add_row("made from", Text(f"{parent.role}: {parent.name} {parent.digest[:SHORT]}"))
    return Group(table, Text(), _files(manifest, all_files=all_files))


def graph_data(ancestry: Ancestry, states: Mapping[str, str]) -> dict[str, Any]:
    """An artifact and its ancestors as JSON; ``states`` are of digests that were verified."""
    nodes: dict[str, Any] = {
        digest: {
            "name": each.name,
            "kind": each.kind,
            "content_digest": each.content_digest,
            "origin": each.to_data()["origin"],
            "state": states.get(digest, "known"),
        }
        for digest, each in ancestry.found.items()
    }
    nodes |= {digest: {"name": each.name, "state": "missing"} for digest, each in ancestry.missing.items()}
    nodes |= {digest: {"state": "damaged", "problem": problem} for digest, problem in ancestry.damaged.items()}
    edges = [
        {"child": digest, "parent": parent.digest, "role": parent.role}
        for digest, each in ancestry.found.items()
        for parent in each.parents
    ]
    return {"root": ancestry.root.digest, "whole": ancestry.whole, "nodes": nodes, "edges": edges}


def graph_view(ancestry: Ancestry, states: Mapping[str, str]) -> Tree:
    """An artifact as the root of a tree whose branches are what it was made from."""
    shown: set[str] = set()
    root = Tree(_node("", ancestry.root, states))
    # In the order in which they are shown, and without recursion: a chain may be long.
    waiting = [(root, parent) for parent in reversed(ancestry.root.parents)]
    while waiting:
        branch, parent = waiting.pop()
        head = f"{parent.role}: "
        if (found := ancestry.found.get(parent.digest)) is None:
            problem = ancestry.damaged.get(parent.digest, "not in the store")
            branch.add(Text(f"{head}{parent.name} {parent.digest[:SHORT]}  ").append(problem, "red"))
        elif parent.digest in shown:
            branch.add(Text(f"{head}{parent.name} {parent.digest[:SHORT]}  ").append("shown above", "dim"))
        else:
            shown.add(parent.digest)
            node = branch.add(_node(head, found, states))
            waiting += [(node, each) for each in reversed(found.parents)]
    return root


def _node(head: str, manifest: ArtifactManifest, states: Mapping[str, str]) -> Text:
    origin = manifest.origin
    made = " ".join(part for part in (origin.stage, origin.run_id) if part)
    text = Text(head).append(manifest.name, "bold")
    text.append(f" {manifest.digest[:SHORT]}  {manifest.kind}, {format_size(manifest.size_bytes)}")
    text.append(f"  by {made}" if made else "", "dim")
    text.append(f"  trace {origin.trace_id}" if origin.trace_id else "", "dim")
    state = states.get(manifest.digest)
    if state is not None:
        text.append("  ").append(state, "green" if state == "verified" else "red")
    return text


def _files(manifest: ArtifactManifest, *, all_files: bool) -> RenderableType:
    shown = manifest.files if all_files else manifest.files[:FEW_FILES]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("file", "size", "SHA-256", "media type"):
        table.add_column(
            title, overflow="fold", no_wrap=title != "file", justify="right" if title == "size" else "left"
        )
    for file in shown:
        table.add_row(Text(file.path), format_size(file.size_bytes), file.sha256[:SHORT], file.media_type)
    rest = len(manifest.files) - len(shown)
    return Group(table, Text(f"and {counted(rest, 'more file')}; see --files", "dim")) if rest else table


def findings_view(findings: Iterable[str]) -> Text:
    """What is wrong, one a line."""
    return Text("\n").join(Text(f"  {finding}", "red") for finding in findings)
