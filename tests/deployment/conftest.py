"""Real models behind real servers, and the rule that none of them is left."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import pytest

from llamatelemetry.artifacts.files import create_manifest, write_manifest
from llamatelemetry.artifacts.lineage import lineage_of
from llamatelemetry.artifacts.manifest import ArtifactOrigin
from llamatelemetry.deployment import Deployment, ServeOptions, deploy, history, stop
from llamatelemetry.deployment.processes import is_running
from llamatelemetry.deployment.state import deployment_names
from llamatelemetry.llama.model_files import demo_model

_ORIGIN = ArtifactOrigin(stage="quantize", run_id="run-7", trace_id="0af7" * 8, span_id="b7ad" * 4)
_LAYERS = 2
# What is changed in the first: a letter of its name, and a tensor's name, which llama.cpp then does not find.
_CHANGES = {"second": (b"Mix1 Ep2", b"Mix1 Ep3"), "broken": (b"output_norm.weight", b"output_nork.weight")}


@dataclass(frozen=True)
class Models:
    """SmolLM2 whole and cut to its first layers, each file with its manifest; llama.cpp refuses the broken one."""

    whole: Path
    first: Path
    second: Path
    broken: Path


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The files; whoever changes one changes it back."""
    folder = tmp_path_factory.mktemp("models")
    found = Models(**{each.name: folder / f"{each.name}.gguf" for each in fields(Models)})
    shutil.copyfile(demo_model(), found.whole)
    _cut(demo_model(), found.first)
    for name, (old, new) in _CHANGES.items():
        (folder / f"{name}.gguf").write_bytes(found.first.read_bytes().replace(old, new, 1))
    for path in sorted(folder.iterdir()):
        write_manifest(create_manifest(path, kind="gguf", origin=_ORIGIN), path)
    return found


@pytest.fixture(scope="session")
def telling(models: Models, origin: ArtifactOrigin) -> Path:
    """A model that names the run that made it in its own metadata; nothing describes it."""
    path = models.first.with_name("alone") / "telling.gguf"
    path.parent.mkdir()
    _cut(models.first, path, lineage_of(origin).metadata())
    return path


def _cut(model: Path, path: Path, more: Mapping[str, str] = MappingProxyType({})) -> None:
    """A model of the first layers alone, which loads and answers in no time, with more in its metadata."""
    source, made = gguf.GGUFReader(model), gguf.GGUFWriter(path, "llama")
    for key in source.fields.values():
        if not key.name.startswith("GGUF.") and key.name != "general.architecture":
            value = _LAYERS if key.name == "llama.block_count" else key.contents()
            made.add_key_value(key.name, value, key.types[0], key.types[-1] if len(key.types) > 1 else None)
    for name, text in more.items():
        made.add_string(name, text)
    for tensor in source.tensors:
        if not tensor.name.startswith("blk.") or int(tensor.name.split(".")[1]) < _LAYERS:
            made.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()


@pytest.fixture(scope="session")
def origin() -> ArtifactOrigin:
    """The run that the models' manifests name."""
    return _ORIGIN


@pytest.fixture(scope="session")
def options() -> ServeOptions:
    """What a small machine serves SmolLM2 with."""
    return ServeOptions(context_length=256, slots=1, threads=1)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where state is kept; what was deployed there is stopped after the test, and then gone."""
    folder = tmp_path / "home"
    monkeypatch.setenv("LLAMATELEMETRY_HOME", str(folder))
    yield folder
    _stop_all(folder)


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory, models: Models, options: ServeOptions) -> Iterator[Deployment]:
    """All of SmolLM2, deployed as ``kept`` for tests that leave it as it is."""
    folder = tmp_path_factory.mktemp("kept")
    yield deploy(models.whole, name="kept", options=options, home=folder)
    _stop_all(folder)


@pytest.fixture
def kept_home(kept: Deployment, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the state of ``kept`` is, for this process and its children."""
    folder = kept.log.parents[3]
    monkeypatch.setenv("LLAMATELEMETRY_HOME", str(folder))
    return folder


@pytest.fixture
def gone() -> Callable[[Any], None]:
    """Wants a deployment's processes to end by themselves, within a few seconds."""
    return _wait_gone


def _stop_all(home: Path) -> None:
    for name in deployment_names(home):
        stop(name, home=home)
        for each in history(name, home=home):
            _wait_gone(each)


def _wait_gone(deployment: Deployment, within_s: float = 10.0) -> None:
    limit = time.monotonic() + within_s
    while is_running(deployment.supervisor) or is_running(deployment.server):
        assert time.monotonic() < limit, f"{deployment.name} is still there"
        time.sleep(0.02)
