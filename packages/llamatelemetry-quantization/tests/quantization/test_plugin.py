from __future__ import annotations

import subprocess
import sys

from llamatelemetry.cli.app import run
from llamatelemetry.pipeline.definition import read_definition
from llamatelemetry.plugins import load_plugins


def test_listing_plugins_loads_neither_numpy_nor_kernels():
    code = (
        "import sys; from llamatelemetry.plugins import load_plugins; plugins = load_plugins();"
        "(report,) = [report for report in plugins.reports if report.name == 'quantization'];"
        "print(report.state, [name for name in sys.modules if name.startswith('llamatelemetry.quantization.')],"
        "'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "loaded ['llamatelemetry.quantization.plugin'] False"


def test_the_file_that_help_shows_is_one_that_could_be_run(tmp_path, capsys):
    assert run(("pipeline", "run", "--help")) == 0
    shown = capsys.readouterr().out.partition("A pipeline's file:\n")[2].partition("Examples:")[0]
    (tmp_path / "pipeline.toml").write_text(shown)

    definition = read_definition(tmp_path / "pipeline.toml")
    pipeline = definition.build(load_plugins().resolve_stage)

    assert definition.wire(pipeline) == {"f16": {"checkpoint": "inputs.checkpoint"}, "quantize": {"model": "f16.model"}}
