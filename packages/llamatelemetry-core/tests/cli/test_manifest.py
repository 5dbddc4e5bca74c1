"""``llamatelemetry manifest`` on real files: what it writes, what it notices, and what it says."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from llamatelemetry.artifacts.files import create_manifest, load_artifact, manifest_path
from llamatelemetry.artifacts.manifest import ArtifactOrigin
from llamatelemetry.artifacts.store import ArtifactStore
from llamatelemetry.cli.app import run
from llamatelemetry.deployment.artifact import find_artifact, prove

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a checkpoint, a dataset and a model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "base" / "model.safetensors").write_bytes(b"\x00" * 1000)
    (tmp_path / "data.jsonl").write_text("{}\n")
    (tmp_path / "model.gguf").write_bytes(b"GGUF" * 100)
    return tmp_path


@pytest.fixture
def manifest(here: Path, capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs the verb; its exit code, its output and what it said beside."""

    def run_verb(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(("manifest", *arguments))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run_verb


@pytest.fixture
def family(manifest: Said) -> dict[str, Any]:
    """Digests of the three, of which the model was made from the others."""
    digests = {}
    for name, more in (
        ("base", ()),
        ("data.jsonl", ()),
        (
            "model.gguf",
            ("--parent", "model=base", "--parent", "dataset=data.jsonl", "--parent", "dataset=base", "--stage", "tune"),
        ),
    ):
        code, out, err = manifest("create", name, *more, "--json")
        assert (code, err) == (0, "")
        digests[name] = json.loads(out)["digest"]
    return digests


def test_create_says_what_it_wrote_and_where(manifest: Said, here: Path) -> None:
    code, out, _ = manifest(
        *("create", "base", "--stage", "download", "--run-id", "r1", "--traceparent", TRACEPARENT),
        *("-p", "steps=12", "-p", "note=a b", "-p", 'layers=["q"]', "--tool", "torch=2.13.0", "--name", "Base"),
    )
    made = load_artifact(here / "base")
    assert code == 0
    assert out == f"checkpoint Base, 1002 B in 2 files: digest {made.digest}\nwrote base.manifest.json\n"
    assert made.parameters == {"steps": 12, "note": "a b", "layers": ["q"]}
    assert made.origin.traceparent == TRACEPARENT
    assert (made.origin.stage, made.origin.run_id, made.tools) == ("download", "r1", {"torch": "2.13.0"})
    assert ArtifactStore("llamatelemetry-artifacts").get(made.digest) == made


def test_provenance_and_a_bill_of_materials_are_written_beside(manifest: Said, family: dict[str, Any]) -> None:
    code, out, _ = manifest("create", "model.gguf", "--parent", "model=base", "--provenance", "--bom", "--json")
    written = json.loads(out)["written"]
    assert code == 0
    assert written == {
        "manifest": "model.gguf.manifest.json",
        "provenance": "model.gguf.intoto.json",
        "bom": "model.gguf.cdx.json",
    }
    assert json.loads(Path(written["provenance"]).read_bytes())["subject"][0]["name"] == "model.gguf"
    (component,) = json.loads(Path(written["bom"]).read_bytes())["components"]
    assert [file["name"] for file in component["components"]] == ["config.json", "model.safetensors"]


def test_verify_is_content_with_what_is_whole(manifest: Said, family: dict[str, Any]) -> None:
    for target in ("base", "base.manifest.json", "./base/"):
        code, out, err = manifest("verify", target)
        assert (code, err) == (0, "")
        assert out == "base is what its manifest says: 2 files, 1002 B.\nIts signature is not there.\n"


def test_verify_names_each_file_that_differs_and_fails(manifest: Said, family: dict[str, Any]) -> None:
    Path("base/config.json").write_text("[]")
    Path("base/evil.py").write_text("")
    code, out, _ = manifest("verify", "base")
    assert code == 1
    lines = out.splitlines()
    assert lines[0] == "base is not what its manifest says:"
    assert lines[1].startswith("  config.json has the SHA-256 ")
    assert lines[2] == "  evil.py was added"
    code, out, _ = manifest("verify", "base", "--json")
    said = json.loads(out)
    assert (code, said["ok"]) == (1, False)
    assert [(each["path"], each["difference"]) for each in said["findings"]] == [
        ("config.json", "changed"),
        ("evil.py", "added"),
    ]


def test_a_damaged_manifest_is_named_and_nothing_is_believed_of_it(manifest: Said, family: dict[str, Any]) -> None:
    path = manifest_path(Path("base"))
    path.write_bytes(path.read_bytes().replace(b"checkpoint", b"checkpoins"))
    for verb in ("verify", "show", "graph"):
        code, out, err = manifest(verb, "base")
        assert (code, out) == (1, "")
        assert err.startswith("Error: base.manifest.json: manifest=")


def test_a_changed_parent_is_no_parent(manifest: Said, family: dict[str, Any]) -> None:
    Path("base/config.json").write_text("[]")
    code, _, err = manifest("create", "model.gguf", "--parent", "model=base")
    assert code == 1
    assert "base is not what its manifest says: config.json has" in err


def test_what_has_no_manifest_and_what_is_not_there_say_what_to_do(manifest: Said) -> None:
    assert "run llamatelemetry manifest create base, if you trust" in manifest("verify", "base")[2]
    assert "nowhere is not there: give a path, or a digest" in manifest("verify", "nowhere")[2]
    assert "absent is not there" in manifest("create", "absent")[2]
    assert "no manifest in llamatelemetry-artifacts has a digest" in manifest("show", "abcdef012345")[2]


def test_what_cannot_be_meant_is_wrong_usage(manifest: Said) -> None:
    Path("weights.bin").write_bytes(b"x")
    for arguments, message in (
        (("weights.bin",), "does not say what it is"),
        (("base", "--traceparent", "x"), "no W3C traceparent"),
        (("base", "--parent", "base"), "is not ROLE=TARGET"),
        (("base", "-p", "steps"), "is not NAME=VALUE"),
    ):
        code, _, err = manifest("create", *arguments)
        assert code == 2
        assert message in err
    assert manifest("create", "weights.bin", "--kind", "weights")[0] == 0


def test_a_link_is_refused_and_named(manifest: Said, here: Path) -> None:
    (here / "base" / "link").symlink_to("config.json")
    code, _, err = manifest("create", "base")
    assert code == 1
    assert "base/link is a symbolic link" in err


def test_show_has_the_facts_for_people_and_all_of_them_as_json(manifest: Said, family: dict[str, Any]) -> None:
    code, out, _ = manifest("show", family["model.gguf"][:10])
    assert code == 0
    assert family["model.gguf"] in out
    assert f"model: base {family['base'][:12]}" in out
    assert "application/x-gguf" in out
    said = json.loads(manifest("show", "model.gguf", "--json")[1])
    assert (said["digest"], said["kind"], len(said["parents"])) == (family["model.gguf"], "gguf", 3)


def test_show_prints_the_documents_of_others_for_whatever_has_a_manifest(
    manifest: Said, family: dict[str, Any]
) -> None:
    said = json.loads(manifest("show", "model.gguf", "--as", "provenance")[1])
    assert said["predicateType"] == "https://slsa.dev/provenance/v1"
    assert len(said["predicate"]["buildDefinition"]["resolvedDependencies"]) == 3
    said = json.loads(manifest("show", family["model.gguf"], "--as", "bom")[1])
    assert [each["name"] for each in said["components"]] == ["base", "data.jsonl"]
    said = json.loads(manifest("show", "base", "--as", "signed")[1])
    assert [each["name"] for each in said["predicate"]["resources"]] == ["config.json", "model.safetensors"]


def test_many_files_are_shown_when_they_are_asked_for(manifest: Said, here: Path) -> None:
    for number in range(20):
        (here / "base" / f"part-{number:02}.bin").touch()
    manifest("create", "base")
    assert "and 10 more files; see --files" in manifest("show", "base")[1]
    assert "part-19.bin" in manifest("show", "base", "--files")[1]


def test_graph_draws_parents_as_branches_each_shown_once(manifest: Said, family: dict[str, Any]) -> None:
    code, out, _ = manifest("graph", "model.gguf")
    assert code == 0
    assert [line.rstrip() for line in out.splitlines()] == [
        f"model.gguf {family['model.gguf'][:12]}  gguf, 400 B  by tune",
        f"├── model: base {family['base'][:12]}  checkpoint, 1002 B",
        f"├── dataset: data.jsonl {family['data.jsonl'][:12]}  dataset, 3 B",
        f"└── dataset: base {family['base'][:12]}  shown above",
    ]
    said = json.loads(manifest("graph", "model.gguf", "--json")[1])
    assert (said["root"], said["whole"]) == (family["model.gguf"], True)
    assert {each["parent"] for each in said["edges"]} == {family["base"], family["data.jsonl"]}


def test_graph_says_which_parents_are_missing_damaged_or_not_what_they_were(
    manifest: Said, family: dict[str, Any]
) -> None:
    store = ArtifactStore("llamatelemetry-artifacts")
    place = store.add(store.get(family["base"]), Path("base"))
    assert "verified" in manifest("graph", "model.gguf", "--verify")[1]
    (place / "config.json").chmod(0o644)
    (place / "config.json").write_text("[]")
    code, out, _ = manifest("graph", "model.gguf", "--verify")
    assert code == 1
    assert "damaged: config.json has the SHA-256" in out

    manifests = Path("llamatelemetry-artifacts/manifests")
    (manifests / f"{family['data.jsonl']}.json").unlink()
    (manifests / f"{family['base']}.json").write_text("{}")
    code, out, _ = manifest("graph", "model.gguf")
    assert code == 1
    assert f"data.jsonl {family['data.jsonl'][:12]}  not in the store" in out
    assert f"{family['base']}.json: manifest.created_at=None is not valid" in out


def test_graph_finds_the_parents_of_what_stands_in_a_store_in_that_store(
    manifest: Said, family: dict[str, Any]
) -> None:
    place = ArtifactStore("kept").add(ArtifactStore("llamatelemetry-artifacts").get(family["base"]), Path("base"))
    manifest("create", "model.gguf", "--parent", f"model={place}", "--store", "kept")
    store = ArtifactStore("kept")
    (digest,) = (each for each in store.digests("") if store.get(each).name == "model.gguf")
    model = store.add(store.get(digest), Path("model.gguf"))
    Path("llamatelemetry-artifacts").rename("away")
    code, out, _ = manifest("graph", str(model), "--verify")
    assert (code, out.count("verified")) == (0, 2)


def test_the_digits_of_a_digest_have_to_mean_one(manifest: Said, family: dict[str, Any]) -> None:
    code, _, err = manifest("show", "000000")
    assert (code, "no manifest in" in err) == (1, True)
    store = ArtifactStore("llamatelemetry-artifacts")
    made = store.get(family["base"])
    place = store.add(made, Path("base"))
    assert manifest("verify", family["base"])[1].startswith(f"{place} is what")
    assert manifest("verify", str(place))[1].startswith(f"{place} is what")


@pytest.mark.timeout(300)  # model-signing takes many seconds to import.
def test_signatures_are_made_and_verified_with_keys_in_files(manifest: Said, here: Path) -> None:
    _write_keys(here)
    written = json.loads(manifest("create", "base", "--sign", "key.pem", "--json")[1])["written"]
    assert written["signature"] == "base.sig"
    assert "Its signatures are those of the key." in manifest("verify", "base", "--key", "key.pub.pem")[1]
    assert "there and was not verified; give --key" in manifest("verify", "base")[1]
    (here / "base.sig").unlink()
    code, _, err = manifest("verify", "base", "--key", "key.pub.pem")
    assert (code, err) == (1, "Error: base.sig: there is no signature: sign the artifact, or ask for the file\n")


@pytest.mark.timeout(300)  # model-signing takes many seconds to import.
def test_what_a_store_keeps_is_signed_with_the_manifest_that_names_its_run(manifest: Said, here: Path) -> None:
    _write_keys(here)
    path = here / "model.gguf"
    origin = ArtifactOrigin(stage="quantize", run_id="run-7")
    made = create_manifest(path, kind="gguf", origin=origin)
    kept = ArtifactStore(here / "kept").add(made, path)

    written = json.loads(manifest("sign", str(kept), "--key", "key.pem", "--json")[1])["written"]

    assert written["signature"] == f"{kept}.sig"
    proved = prove(find_artifact(kept), public_key=here / "key.pub.pem")
    assert (proved.standing, proved.origin, proved.manifest) == ("signed", origin, made)
    kept.chmod(0o644)
    kept.write_bytes(b"GGUF")
    code, _, err = manifest("sign", made.digest, "--store", "kept", "--key", "key.pem")
    assert (code, "is cut short" in err) == (1, True)


def _write_keys(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "key.pub.pem").write_bytes(
        key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def test_a_key_that_is_not_there_is_said_before_anything_is_written(manifest: Said, here: Path) -> None:
    code, _, err = manifest("create", "base", "--bom", "--sign", "gone.pem")
    assert (code, err.partition(";")[0]) == (1, "Error: gone.pem: cannot be read: No such file or directory")
    assert not [path.name for path in here.glob("base.*")]


def test_help_of_each_verb_has_examples(manifest: Said) -> None:
    for verb in ("create", "verify", "sign", "show", "graph"):
        code, out, _ = manifest(verb, "--help")
        assert code == 0
        assert f"llamatelemetry manifest {verb} " in out.partition("Examples:")[2]


def test_a_terminal_sees_a_bar_while_files_are_hashed_and_a_pipe_does_not(here: Path) -> None:
    with (here / "large.gguf").open("wb") as file:
        file.truncate(300_000_000)
    command = [sys.executable, "-m", "llamatelemetry.cli", "manifest", "create", "large.gguf", "--json"]
    above, below = pty.openpty()
    with (
        os.fdopen(above, "rb", buffering=0) as terminal,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=below, env={**os.environ, "TERM": "xterm"}) as process,
    ):
        os.close(below)
        shown = b""
        try:
            while piece := terminal.read(65536):
                shown += piece
        except OSError:
            pass  # A terminal whose other end was closed has no end of file.
        assert process.stdout is not None
        said = json.loads(process.stdout.read())
    assert b"Hashing large.gguf" in shown
    assert b"300.0 MB" in shown
    assert said["size_bytes"] == 300_000_000
