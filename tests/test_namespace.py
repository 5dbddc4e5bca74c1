"""One namespace, filled by several distributions, that costs nothing to import."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import llamatelemetry

LOADED_BY = """
import json, sys
before = set(sys.modules)
import {modules}
print(json.dumps(sorted(set(sys.modules) - before)))
"""

EVERY_MODULE = """
import importlib, json, pkgutil, sys
import llamatelemetry
names = [module.name for module in pkgutil.walk_packages(llamatelemetry.__path__, "llamatelemetry.")]
needing = {}
for name in names:
    if not name.endswith(".__main__"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as missing:
            needing[name] = missing.name.partition(".")[0]
print(json.dumps({"walked": names, "loaded": sorted(sys.modules), "needing": needing}))
"""


def test_importing_the_package_costs_what_its_two_standard_modules_cost(in_clean_process):
    # The time itself is a benchmark; this is what it is made of, and no machine's load changes it.
    loaded = set(in_clean_process(LOADED_BY.format(modules="llamatelemetry")))

    assert loaded - set(in_clean_process(LOADED_BY.format(modules="pkgutil, typing"))) == {"llamatelemetry"}


def test_importing_every_module_of_all_distributions_never_loads_torch(in_clean_process):
    found = in_clean_process(EVERY_MODULE)

    rooms = ("sdk", "otel", "llama", "quantization", "transformers")
    assert {f"llamatelemetry.{room}" for room in rooms} <= set(found["walked"])
    assert not {"torch", "transformers", "triton", "xllamacpp"} & set(found["loaded"])
    # Only what runs a model by them may want torch and transformers, and it is loaded on use.
    assert set(found["needing"].values()) <= {"torch", "transformers"}
    assert all(name.startswith("llamatelemetry.transformers.") for name in found["needing"])


def test_a_name_that_nobody_registered_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'InferenceEngin'"):
        llamatelemetry.InferenceEngin  # noqa: B018  the access is the test


def test_all_distributions_serve_the_one_namespace(root: Path):
    homes = {Path(entry).relative_to(root).parts[1] for entry in llamatelemetry.__path__}

    assert homes == {
        "llamatelemetry-core",
        "llamatelemetry-llamacpp",
        "llamatelemetry-quantization",
        "llamatelemetry-transformers",
        "llamatelemetry-unsloth",
    }


def private_imports(source: str) -> list[str]:
    """Names below ``llamatelemetry`` that a plugin's source imports although they start with ``_``."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in names if name.startswith("llamatelemetry.") and "._" in name]


def test_plugins_import_no_private_name_of_core(root: Path):
    found = {
        str(path): names
        for room in root.glob("packages/*/src/llamatelemetry/*/")
        if room.parts[len(root.parts) + 1] != "llamatelemetry-core"
        for path in room.rglob("*.py")
        if (names := [name for name in private_imports(path.read_text()) if f".{room.name}." not in name])
    }

    assert found == {}


def test_a_private_import_would_be_seen():
    assert private_imports("from llamatelemetry.otel import _export") == ["llamatelemetry.otel._export"]
    assert private_imports("import llamatelemetry._hidden.thing") == ["llamatelemetry._hidden.thing"]
