"""``llamatelemetry manifest``: what an artifact is made of and where it came from, written, verified and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click
from rich.text import Text

from llamatelemetry.artifacts.bill_of_materials import bill_of_materials, write_bill_of_materials
from llamatelemetry.artifacts.files import Finding, compare_files, create_manifest, verify_files, write_manifest
from llamatelemetry.artifacts.graph import Ancestry, ancestry
from llamatelemetry.artifacts.kinds import guess_kind
from llamatelemetry.artifacts.manifest import ArtifactManifest
from llamatelemetry.artifacts.provenance import provenance as provenance_of
from llamatelemetry.artifacts.provenance import write_provenance
from llamatelemetry.artifacts.signing import (
    check_signer,
    sign_artifact,
    sign_described,
    signature_path,
    signing_statement,
    verify_signatures,
)
from llamatelemetry.artifacts.store import ArtifactStore
from llamatelemetry.cli.hash_progress import hash_bar
from llamatelemetry.cli.manifest_origin import origin_of, pairs, parameters, roles
from llamatelemetry.cli.manifest_target import find_target
from llamatelemetry.cli.manifest_view import (
    SHORT,
    findings_view,
    graph_data,
    graph_view,
    manifest_data,
    manifest_view,
)
from llamatelemetry.cli.output import console, examples, json_option, key_password_option, print_json
from llamatelemetry.distributed.sizes import counted, format_size
from llamatelemetry.pipeline.definition import DEFAULT_STORE

TAMPERED: Final = 1
INCOMPLETE: Final = 1
_TARGET: Final = """\b
TARGET is one of:
  a file or folder, with its manifest beside it or in the store that it stands in
  a manifest: MODEL.manifest.json
  the digest of a manifest in the store, or its first digits
"""
_store_option = click.option(
    "--store",
    type=click.Path(path_type=Path),
    show_default=f"the one that TARGET stands in, else {DEFAULT_STORE}",
    help="Where artifacts are kept.",
)


@click.group(
    epilog=examples(
        "llamatelemetry manifest create model.gguf",
        "llamatelemetry manifest verify model.gguf",
        "llamatelemetry manifest show model.gguf",
        "llamatelemetry manifest graph model.gguf --verify",
    )
)
def manifest() -> None:
    """Say what an artifact is made of and where it came from, and hold it to that.

    A manifest stands beside its artifact: MODEL.manifest.json. It has the SHA-256 of every file, the
    artifacts it was made from, the run, the trace and the span that made it.
    """


@manifest.command(
    short_help="Write the manifest of an artifact.",
    epilog=examples(
        "llamatelemetry manifest create model.gguf",
        "llamatelemetry manifest create lora/ --parent model=base/ --parent dataset=data.jsonl -p steps=12",
        "llamatelemetry manifest create model.gguf --provenance --bom --sign key.pem",
    ),
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--kind", help="What it is: checkpoint, adapter, gguf, dataset, report ...  [default: as its files say]")
@click.option("--name", default="", help="What people call it.  [default: its file name]")
@click.option(
    "--parent", "parents", multiple=True, callback=roles, help="ROLE=TARGET it was made from; repeatable. Is verified."
)
@click.option("--stage", default="", help="The stage that made it, such as quantize.")
@click.option("--run-id", default="", help="The run that made it.")
@click.option("--traceparent", default="", envvar="TRACEPARENT", help="The span that made it.  [env: TRACEPARENT]")
@click.option("--git-commit", default="", help="Commit of the code that ran, in full.")
@click.option(
    "-p", "--parameter", "told", multiple=True, callback=parameters, help="NAME=VALUE it was told; repeatable."
)
@click.option("--tool", "tools", multiple=True, callback=pairs, help="NAME=VERSION that made it; repeatable.")
@click.option("--provenance", is_flag=True, help="Write SLSA provenance too: PATH.intoto.json.")
@click.option("--bom", is_flag=True, help="Write a CycloneDX bill of materials too: PATH.cdx.json.")
@click.option(
    "--sign", "key", type=click.Path(path_type=Path), help="Sign with this PEM key, by OpenSSF model-signing."
)
@key_password_option
@_store_option
@json_option
def create(
    *,
    path: Path,
    kind: str | None,
    name: str,
    parents: tuple[tuple[str, str], ...],
    stage: str,
    run_id: str,
    traceparent: str,
    git_commit: str,
    told: dict[str, Any],
    tools: dict[str, str],
    key: Path | None,
    password: str | None,
    store: Path | None,
    provenance: bool,
    bom: bool,
    as_json: bool,
) -> None:
    """Hash PATH, a file or a folder, and write its manifest beside it.

    The store keeps the manifest too, and those of its parents, so that `graph` finds them. Symbolic links
    are refused: what they lead to could change and nobody would notice.
    """
    origin = origin_of(stage=stage, run_id=run_id, traceparent=traceparent, git_commit=git_commit)
    if key is not None:
        check_signer(key)
    known = kind or guess_kind(path)
    if known is None and path.exists():
        raise click.BadParameter(f"{path} does not say what it is; give a word", param_hint="--kind")
    made_from = [(role, _verified(target, store)) for role, target in parents]
    with hash_bar(f"Hashing {path.name}") as tell:
        made = create_manifest(
            path,
            kind=known or "file",
            name=name,
            parents=[parent.as_parent(role) for role, parent in made_from],
            origin=origin,
            parameters=told,
            tools=tools,
            progress=tell,
        )
    written = {"manifest": write_manifest(made, path)}
    kept = ArtifactStore(store or DEFAULT_STORE)
    for each in (*(parent for _, parent in made_from), made):
        kept.note(each)
    if provenance:
        written["provenance"] = write_provenance(made, path)
    if bom:
        written["bom"] = write_bill_of_materials(made, path, ancestry(made, kept).found.values())
    if key is not None:
        written["signature"], written["manifest_signature"] = sign_artifact(path, private_key=key, password=password)
    if as_json:
        print_json({"written": {name: str(place) for name, place in written.items()}, **manifest_data(made)})
        return
    size = f"{format_size(made.size_bytes)} in {counted(len(made.files), 'file')}"
    click.echo(f"{made.kind} {made.name}, {size}: digest {made.digest}")
    for place in written.values():
        click.echo(f"wrote {place}")


@manifest.command(
    short_help="Hold an artifact to its manifest.",
    epilog=f"{_TARGET}\n"
    + examples(
        "llamatelemetry manifest verify model.gguf",
        "llamatelemetry manifest verify checkpoint.manifest.json --json",
        "llamatelemetry manifest verify model.gguf --key key.pub.pem",
        "llamatelemetry manifest verify 3f786850e387",
    ),
)
@click.argument("target")
@click.option("--key", type=click.Path(path_type=Path), help="Verify the signatures too, with this public PEM key.")
@_store_option
@json_option
def verify(target: str, key: Path | None, store: Path | None, *, as_json: bool) -> int:
    """Hash every file of TARGET and compare it with its manifest.

    Names each file that is missing, added, cut short, grown or changed. Exit code 1 if there is one, or if
    the manifest itself was damaged. A manifest says what the files were; who made it, only a signature says:
    give --key for that.
    """
    meant = find_target(target, store)
    with hash_bar(f"Verifying {meant.artifact.name}") as tell:
        findings = compare_files(meant.manifest, meant.artifact, progress=tell)
    if not findings and key is not None:
        verify_signatures(meant.artifact, public_key=key)
    signed = "verified" if key is not None and not findings else _unverified(meant.artifact)
    if as_json:
        print_json(
            {
                "ok": not findings,
                "artifact": str(meant.artifact),
                "digest": meant.manifest.digest,
                "signature": signed,
                "findings": [_finding(each) for each in findings],
            }
        )
    elif findings:
        console().print(Text(f"{meant.artifact} is not what its manifest says:", "bold red"))
        console().print(findings_view(str(each) for each in findings))
    else:
        files = counted(len(meant.manifest.files), "file")
        click.echo(f"{meant.artifact} is what its manifest says: {files}, {format_size(meant.manifest.size_bytes)}.")
        click.echo({"verified": "Its signatures are those of the key."}.get(signed, f"Its signature is {signed}."))
    return TAMPERED if findings else 0


@manifest.command(
    short_help="Sign an artifact that has a manifest.",
    epilog=f"{_TARGET}\n"
    + examples(
        "llamatelemetry manifest sign model.gguf --key key.pem",
        "llamatelemetry manifest sign 3f786850e387 --store artifacts --key key.pem",
        "llamatelemetry deploy model.gguf --key key.pub.pem",
    ),
)
@click.argument("target")
@click.option("--key", required=True, type=click.Path(path_type=Path), help="Sign with this PEM key.")
@key_password_option
@_store_option
@json_option
def sign(target: str, key: Path, password: str | None, store: Path | None, *, as_json: bool) -> None:
    """Sign TARGET by OpenSSF model-signing, with the manifest that it has.

    Every file is held to the manifest first. What a pipeline made keeps its own: a copy is written beside the artifact,
    so that what is signed, or deployed with --key, leads back to its run.
    """
    meant = find_target(target, store)
    written = sign_described(meant.artifact, meant.manifest, private_key=key, password=password)
    if as_json:
        names = ("signature", "manifest_signature")
        places = {name: str(place) for name, place in zip(names, written, strict=True)}
        print_json({"artifact": str(meant.artifact), "digest": meant.manifest.digest, "written": places})
        return
    for place in written:
        click.echo(f"wrote {place}")


@manifest.command(
    short_help="Show a manifest.",
    epilog=f"{_TARGET}\n"
    + examples(
        "llamatelemetry manifest show model.gguf",
        "llamatelemetry manifest show 3f786850e387 --files",
        "llamatelemetry manifest show model.gguf --as provenance",
    ),
)
@click.argument("target")
@click.option("--files", "all_files", is_flag=True, help="Show every file.")
@click.option(
    "--as",
    "form",
    type=click.Choice(["provenance", "bom", "signed"]),
    help="Print it as SLSA provenance, as a CycloneDX bill of materials, or as what model-signing signs.",
)
@_store_option
@json_option
def show(*, target: str, store: Path | None, form: str | None, all_files: bool, as_json: bool) -> None:
    """Show what the manifest of TARGET says. The files themselves are not looked at: `verify` does."""
    meant = find_target(target, store)
    if form == "provenance":
        print_json(provenance_of(meant.manifest))
    elif form == "bom":
        print_json(bill_of_materials(meant.manifest, ancestry(meant.manifest, meant.store).found.values()))
    elif form == "signed":
        print_json(signing_statement(meant.manifest))
    elif as_json:
        print_json(manifest_data(meant.manifest))
    else:
        console().print(manifest_view(meant.manifest, all_files=all_files))


@manifest.command(
    short_help="Show what an artifact was made from, back to the start.",
    epilog=f"{_TARGET}\n"
    + examples(
        "llamatelemetry manifest graph model.gguf",
        "llamatelemetry manifest graph 3f786850e387 --store artifacts --verify",
        "llamatelemetry manifest graph model.gguf --json",
    ),
)
@click.argument("target")
@click.option("--verify", "hashing", is_flag=True, help="Hash the files of each artifact that the store keeps.")
@_store_option
@json_option
def graph(target: str, store: Path | None, *, hashing: bool, as_json: bool) -> int:
    """Show TARGET as a tree whose branches are what it was made from, with the run and trace of each.

    Parents are looked up in the store by the digest that the child names, so a manifest that was changed
    is not found rather than believed. Exit code 1 where a parent is not there or damaged.
    """
    meant = find_target(target, store)
    found = ancestry(meant.manifest, meant.store)
    states = _states(found, meant.store, meant.artifact) if hashing else {}
    if as_json:
        print_json(graph_data(found, states))
    else:
        console().print(graph_view(found, states))
    return 0 if found.whole and set(states.values()) <= {"verified", "elsewhere"} else INCOMPLETE


def _verified(target: str, store: Path | None) -> ArtifactManifest:
    """A parent's manifest, once its files were held to it: what is made of a changed file has another parent."""
    meant = find_target(target, store)
    with hash_bar(f"Verifying {meant.artifact.name}") as tell:
        verify_files(meant.manifest, meant.artifact, progress=tell)
    return meant.manifest


def _states(found: Ancestry, store: ArtifactStore, artifact: Path) -> dict[str, str]:
    states = {}
    for digest, each in found.found.items():
        place = artifact if digest == found.root.digest else store.path(each)
        if not place.exists():
            states[digest] = "elsewhere"  # Given from outside, or removed to save space: its manifest is there.
            continue
        with hash_bar(f"Verifying {each.name} {digest[:SHORT]}") as tell:
            findings = compare_files(each, place, progress=tell)
        states[digest] = f"damaged: {'; '.join(str(each) for each in findings[:3])}" if findings else "verified"
    return states


def _unverified(artifact: Path) -> str:
    return "there and was not verified; give --key" if signature_path(artifact).exists() else "not there"


def _finding(finding: Finding) -> dict[str, str]:
    return {"path": finding.path, "difference": finding.difference.value, "detail": finding.detail}
