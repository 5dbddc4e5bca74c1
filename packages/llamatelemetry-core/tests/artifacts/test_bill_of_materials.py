from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from llamatelemetry.artifacts.bill_of_materials import SpecVersion, bill_of_materials, write_bill_of_materials
from llamatelemetry.artifacts.files import create_manifest
from llamatelemetry.artifacts.manifest import ArtifactManifest

Described = Callable[..., ArtifactManifest]


def check(document: dict[str, Any]) -> None:
    """Holds a document to CycloneDX's own schema, and its references to what is there."""
    version = {"1.6": SchemaVersion.V1_6, "1.7": SchemaVersion.V1_7}[document["specVersion"]]
    errors = JsonStrictValidator(version).validate_str(json.dumps(document), all_errors=True)
    assert errors is None, [str(error) for error in errors]
    components = [document["metadata"]["component"], *document["components"]]
    references = [each["bom-ref"] for each in components]
    references += [file["bom-ref"] for each in components for file in each.get("components", ())]
    assert len(set(references)) == len(references)
    named = {name for each in document["dependencies"] for name in (each["ref"], *each["dependsOn"])}
    named |= {
        dataset["ref"]
        for each in components
        for dataset in each.get("modelCard", {}).get("modelParameters", {}).get("datasets", ())
    }
    assert named <= set(references)


@pytest.fixture
def family(file: Path, folder: Path, tmp_path: Path, described: Described) -> tuple[ArtifactManifest, ...]:
    """A dataset, a checkpoint trained on it, and a GGUF made from that."""
    (tmp_path / "data.jsonl").write_text("{}\n")
    dataset = create_manifest(tmp_path / "data.jsonl", kind="dataset")
    checkpoint = described(folder, parents=(dataset.as_parent("dataset"),))
    gguf = described(file, kind="gguf", parents=(checkpoint.as_parent("model"), dataset.as_parent("dataset")))
    return dataset, checkpoint, gguf


@pytest.mark.parametrize("version", get_args(SpecVersion))
def test_the_schema_of_cyclonedx_takes_the_bill_of_each_artifact(
    version: SpecVersion, family: tuple[ArtifactManifest, ...]
) -> None:
    for manifest in family:
        check(bill_of_materials(manifest, family, spec_version=version))
        check(bill_of_materials(manifest, spec_version=version))


def test_all_ancestors_are_components_and_depend_on_theirs(family: tuple[ArtifactManifest, ...]) -> None:
    dataset, checkpoint, gguf = family
    document = bill_of_materials(gguf, family)
    assert document["metadata"]["component"]["type"] == "machine-learning-model"
    assert document["metadata"]["component"]["hashes"][0]["content"] == gguf.files[0].sha256
    assert [each["name"] for each in document["components"]] == ["checkpoint", "data.jsonl"]
    assert [each["type"] for each in document["components"]] == ["machine-learning-model", "data"]
    assert [file["name"] for file in document["components"][0]["components"]][:2] == [
        "config.json",
        "model.safetensors",
    ]
    edges = {each["ref"]: each["dependsOn"] for each in document["dependencies"]}
    names = {f"artifact:{each.digest}": each.name for each in family}
    assert {names[ref]: [names[each] for each in needed] for ref, needed in edges.items()} == {
        "model.gguf": ["checkpoint", "data.jsonl"],
        "checkpoint": ["data.jsonl"],
        "data.jsonl": [],
    }
    card = document["components"][0]["modelCard"]
    assert card["modelParameters"]["datasets"] == [{"ref": f"artifact:{dataset.digest}"}]
    assert checkpoint.digest in json.dumps(document)


def test_a_parent_that_nobody_knows_is_named_and_its_dependencies_stay_unknown(
    family: tuple[ArtifactManifest, ...],
) -> None:
    document = bill_of_materials(family[2])
    assert [each["name"] for each in document["components"]] == ["checkpoint", "data.jsonl"]
    assert len(document["dependencies"]) == 1


def test_the_run_and_its_span_are_properties(family: tuple[ArtifactManifest, ...]) -> None:
    properties = {
        each["name"]: each["value"] for each in bill_of_materials(family[2])["metadata"]["component"]["properties"]
    }
    assert properties["llamatelemetry:run"] == "run-7"
    assert properties["llamatelemetry:traceparent"] == family[2].origin.traceparent
    assert json.loads(properties["llamatelemetry:parameters"]) == family[2].parameters
    assert properties["llamatelemetry:tool:torch"] == "2.13.0"


def test_equal_manifests_give_equal_bytes_and_others_another_serial_number(
    file: Path, family: tuple[ArtifactManifest, ...]
) -> None:
    path = write_bill_of_materials(family[2], file, family)
    assert path.name == "model.gguf.cdx.json"
    first = path.read_bytes()
    write_bill_of_materials(family[2], file, family)
    assert path.read_bytes() == first
    assert json.loads(first)["serialNumber"] != bill_of_materials(family[1])["serialNumber"]


def test_the_same_parent_in_two_roles_is_named_once(file: Path, folder: Path, described: Described) -> None:
    parent = described(folder)
    child = described(file, kind="gguf", parents=(parent.as_parent("model"), parent.as_parent("tokenizer")))
    check(bill_of_materials(child, (parent,)))
