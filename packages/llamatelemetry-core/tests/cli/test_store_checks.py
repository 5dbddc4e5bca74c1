"""What ``llamatelemetry doctor`` finds in a store of artifacts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from llamatelemetry.artifacts.kept_provenance import provenance_path
from llamatelemetry.artifacts.store import ArtifactStore
from llamatelemetry.cli.store_checks import checks
from llamatelemetry.pipeline import Pipeline, Port, StageContext
from llamatelemetry.plugins import CheckState


class Write:
    """A stage that writes its word."""

    version, inputs = "1", ()
    tools: Mapping[str, str] = {}
    outputs = (Port(name="text", kind="text"),)

    def __init__(self, word: str) -> None:
        self.name, self.parameters = word, {"word": word}

    def run(self, context: StageContext) -> Mapping[str, Path]:
        made = context.folder / "text.txt"
        made.write_text(self.parameters["word"])
        return {"text": made}


@pytest.fixture
def made(tmp_path):
    """A store in which pipelines keep things where nobody says otherwise, with two artifacts."""
    store = ArtifactStore(tmp_path / "llamatelemetry-artifacts")
    Pipeline([Write("a"), Write("b")]).run("two", store=store)
    return store


def test_of_no_store_nothing_is_said(tmp_path):
    assert checks(tmp_path / "none") == []


def test_a_store_that_is_whole_is_one_line(made):
    (check,) = checks(made.folder)
    assert check.state is CheckState.OK
    assert check.detail.startswith("2 of 2 manifests in")


def test_a_broken_manifest_is_named_with_what_to_do(made):
    digest = made.digests()[0]
    path = made.folder / "manifests" / f"{digest}.json"
    path.write_bytes(path.read_bytes().replace(b"text.txt", b"test.txt"))
    summary, broken = checks(made.folder)
    assert (summary.state, summary.detail[:6]) == (CheckState.ERROR, "1 of 2")
    assert (broken.name, broken.state) == (digest[:12], CheckState.ERROR)
    assert str(path) in broken.detail
    assert broken.fix.startswith(f"rm {path}; then run the pipeline again")


def test_broken_provenance_is_named_too(made):
    path = provenance_path(made, made.get(made.digests()[1]))
    path.write_bytes(path.read_bytes()[:-1])
    _, broken = checks(made.folder)
    assert path.name in broken.detail
    assert broken.fix.startswith(f"rm {path};")


def test_of_many_the_first_are_shown_and_the_rest_counted(tmp_path):
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    for number in range(13):
        (manifests / f"{number:064x}.json").write_text("nothing")
    summary, *shown = checks(tmp_path)
    assert summary.detail.startswith("0 of 13")
    assert len(shown) == 11
    assert shown[-1].detail == "3 more are broken"


def test_doctor_looks_into_the_store_of_the_current_folder(shelf, made):
    made.folder.rename(shelf.folder / "llamatelemetry-artifacts")
    (path, _) = sorted(shelf.folder.glob("llamatelemetry-artifacts/manifests/*[0-9a-f].json"))[:2]
    path.write_text("{}")
    done = shelf.llamatelemetry("doctor", "--json", env={"LLAMATELEMETRY_DISABLED_PLUGINS": "llamacpp"})
    found = [row for row in json.loads(done.stdout)["checks"] if row["section"] == "Artifacts"]
    assert done.returncode == 1
    assert [row["state"] for row in found] == ["error", "error"]
