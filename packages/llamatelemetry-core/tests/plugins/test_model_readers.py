"""Model formats are read by whatever plugin knows them; what goes wrong is one typed error."""

from __future__ import annotations

from typing import Any

import pytest

READER = """
from llamatelemetry.plugins import hookimpl

@hookimpl
def register_model_readers(registry):
    registry.add("{name}", "{name}_plugin_targets:read")
"""

SHAPE = """
from pathlib import Path
from llamatelemetry.distributed.shape import LayerShape, ModelShape

def read(path):
    if path.suffix != ".toy":
        return None
    layers = (LayerShape(weights_bytes=10, key_elements=1, value_elements=2),) * 3
    return ModelShape(
        name="toy", path=path, format="toy", architecture="toy", layers=layers, input_bytes=5, output_bytes=7,
        tied_output=False, embedding_length=8, vocabulary_size=16, head_count=2,
    )
"""


def plant(shelf: Any, name: str, targets: str) -> None:
    shelf.plant(name, READER.format(name=name), targets=targets)


def asked(shelf: Any, file: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """What reading a file came to, and what the reports of the plugins say after it."""
    path = shelf.folder / file
    if not path.exists() and "missing" not in file:
        path.write_bytes(b"anything")
    found: dict[str, Any] = shelf.ask(
        f"""
        from pathlib import Path
        try:
            shape = plugins.read_model_shape(Path({str(path)!r}))
            answer = {{"name": shape.name, "weights": shape.weights_bytes}}
        except Exception as error:
            answer = {{"type": type(error).__name__, "message": str(error)}}
        answer["states"] = {{report.name: [report.state, report.error] for report in plugins.reports}}
        """,
        env={"LLAMATELEMETRY_DISABLED_PLUGINS": "llamacpp,transformers", **(env or {})},
    )
    return found


def test_a_model_is_read_by_the_plugin_that_knows_its_format(shelf: Any) -> None:
    plant(shelf, "other", "def read(path):\n    return None")
    plant(shelf, "toy", SHAPE)
    found = asked(shelf, "model.toy")
    assert (found["name"], found["weights"]) == ("toy", 5 + 3 * 10 + 7)


def test_readers_are_not_imported_before_a_model_is_read(shelf: Any) -> None:
    plant(shelf, "toy", SHAPE)
    assert shelf.ask("plugins.reports\nanswer = 'toy_plugin_targets' in sys.modules") is False


def test_a_damaged_file_ends_with_its_readers_verdict(shelf: Any) -> None:
    plant(
        shelf,
        "toy",
        """
        from llamatelemetry.errors import ModelFileError

        def read(path):
            raise ModelFileError(path, "is cut off")
        """,
    )
    found = asked(shelf, "model.toy")
    assert found["type"] == "ModelFileError"
    assert found["message"].endswith("model.toy: is cut off")
    assert found["states"]["toy"][0] == "loaded"


@pytest.mark.parametrize(
    ("targets", "problem"),
    [
        ("def read(path):\n    return path.layers", "model reader 'broken' raised AttributeError"),
        ("def read(path):\n    raise SystemExit(3)", "model reader 'broken' raised SystemExit: 3"),
        ("import nothing_of_that_name", "import of broken_plugin_targets raised ModuleNotFoundError"),
        ("read = None", "model reader 'broken' raised TypeError"),
    ],
)
def test_a_broken_reader_is_reported_and_the_next_one_asked(shelf: Any, targets: str, problem: str) -> None:
    plant(shelf, "broken", targets)
    plant(shelf, "toy", SHAPE)
    found = asked(shelf, "model.toy")
    assert found["name"] == "toy"
    assert found["states"]["broken"][0] == "failed"
    assert problem in found["states"]["broken"][1]
    found = asked(shelf, "model.unknown")
    assert found["type"] == "PluginError"
    assert problem in found["message"]


def test_a_model_that_is_not_there_is_said_not_to_exist(shelf: Any) -> None:
    found = asked(shelf, "missing.gguf")
    assert found["type"] == "ModelFileError"
    assert found["message"].endswith("missing.gguf: does not exist")


def test_an_unknown_format_is_refused_with_the_formats_that_are_known(shelf: Any) -> None:
    plant(shelf, "toy", SHAPE)
    found = asked(shelf, "model.onnx")
    assert found["type"] == "ModelFileError"
    assert found["message"].endswith("is in no format that an installed plugin reads; formats: toy")
    found = asked(shelf, "empty.onnx", env={"LLAMATELEMETRY_DISABLED_PLUGINS": "llamacpp,toy,transformers"})
    assert found["message"].endswith("formats: none")


def test_a_known_format_whose_plugin_is_missing_says_what_to_install(shelf: Any) -> None:
    folder = shelf.folder / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for model in ("checkpoint", "checkpoint/config.json", "model.safetensors"):
        code = f"""
            from pathlib import Path
            from llamatelemetry.plugins.host import Plugins
            from llamatelemetry.errors import MissingDependencyError
            try:
                Plugins(()).read_model_shape(Path({str(shelf.folder)!r}) / {model!r})
            except MissingDependencyError as error:
                answer = str(error)
        """
        (shelf.folder / "model.safetensors").touch()
        assert "Run: pip install llamatelemetry-transformers" in shelf.ask(code)


def test_a_known_format_whose_plugin_is_off_says_so(shelf: Any) -> None:
    found = asked(shelf, "model.gguf")
    assert found["type"] == "PluginError"
    assert "llamatelemetry-llamacpp is installed but not usable (disabled)" in found["message"]
