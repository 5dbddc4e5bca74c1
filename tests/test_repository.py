"""What every distribution carries, and what the repository must never hold."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DISTRIBUTIONS = {
    "llamatelemetry-core": "llamatelemetry",
    "llamatelemetry-llamacpp": "llamatelemetry/llama",
    "llamatelemetry-quantization": "llamatelemetry/quantization",
    "llamatelemetry-transformers": "llamatelemetry/transformers",
    "llamatelemetry-unsloth": "llamatelemetry/unsloth",
}

# Folders and hosts that exist on one machine only.
MACHINE_ONLY = re.compile(r"/home/|/Users/|/work/|pythonhosted|/simple/|index-url")


@pytest.fixture(scope="module")
def tracked(root: Path) -> list[Path]:
    """Files that git tracks."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    return [root / name for name in listing.split("\0") if name and (root / name).is_file()]


def pins(entries: list[str]) -> dict[str, str]:
    """Normalized names to the one version each entry allows."""
    found = {}
    for entry in entries:
        requirement = Requirement(entry)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", entry
        found[canonicalize_name(requirement.name)] = specifier.version
    return found


def test_no_lock_file_is_tracked(tracked: list[Path]):
    assert not [path for path in tracked if path.name in {"uv.lock", "poetry.lock", "pdm.lock", "constraints.txt"}]


def test_no_file_names_a_machine_or_a_registry(tracked: list[Path]):
    found = [
        (path.name, match.group())
        for path in tracked
        if path != Path(__file__) and (match := MACHINE_ONLY.search(path.read_text(encoding="utf-8", errors="ignore")))
    ]

    assert found == []


@pytest.mark.parametrize(("name", "room"), DISTRIBUTIONS.items())
def test_a_distribution_carries_what_it_is_published_with(root: Path, name: str, room: str):
    package = root / "packages" / name
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]

    assert (package / "src" / room / "py.typed").is_file()
    assert (package / "README.md").read_text().startswith(f"# {name}\n")
    assert "## Unreleased" in (package / "CHANGELOG.md").read_text()
    assert (package / "LICENSE").read_bytes() == (root / "LICENSE").read_bytes()
    assert project["name"] == name
    assert project["version"] == importlib.metadata.version(name)


def test_every_package_folder_is_a_distribution_that_is_checked(root: Path):
    assert {path.name for path in (root / "packages").iterdir() if path.is_dir()} == set(DISTRIBUTIONS)


def test_only_core_owns_the_namespace_package(root: Path):
    owners = [path.parts[-4] for path in root.glob("packages/*/src/llamatelemetry/__init__.py")]

    assert owners == ["llamatelemetry-core"]


def closure(requirements: list[str], without: set[str]) -> dict[str, str]:
    """Names to installed versions of everything that the requirements bring in, here and now."""
    found: dict[str, str] = {}
    done: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if str(requirement) in done:
            continue
        done.add(str(requirement))
        distribution = importlib.metadata.distribution(name)
        found[name] = distribution.version
        # A package whose declared dependencies are overruled in pyproject.toml brings none.
        for text in () if name in without else distribution.requires or ():
            child = Requirement(text)
            extras = requirement.extras or {""}
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(child)
    return found


def test_everything_installed_for_development_has_the_version_that_the_list_names(workspace: dict[str, Any]):
    groups = workspace["dependency-groups"]
    asked = [entry for group in groups.values() for entry in group if isinstance(entry, str)]
    without = {entry["name"] for entry in workspace["tool"]["uv"]["dependency-metadata"]}
    pinned = pins(workspace["tool"]["uv"]["constraint-dependencies"])

    installed = {name: version for name, version in closure(asked, without).items() if name not in DISTRIBUTIONS}

    assert installed == {name: pinned.get(name) for name in installed}


def test_building_uses_the_versions_of_the_list(workspace: dict[str, Any]):
    uv = workspace["tool"]["uv"]

    assert pins(uv["build-constraint-dependencies"]).items() <= pins(uv["constraint-dependencies"]).items()
