from __future__ import annotations

import subprocess
import sys

from llamatelemetry.plugins import load_plugins


def test_a_checkpoint_is_read_by_whoever_asks_the_plugins(checkpoint):
    path = checkpoint.config()
    checkpoint.weights(checkpoint.llama())
    shape = load_plugins().read_model_shape(checkpoint.path)
    assert shape == checkpoint.shape()
    assert load_plugins().read_model_shape(path).layers == shape.layers


def test_listing_plugins_loads_no_reader():
    code = (
        "import sys; from llamatelemetry.plugins import load_plugins; plugins = load_plugins();"
        "(report,) = [report for report in plugins.reports if report.name == 'transformers'];"
        "print(report.state, [name for name in sys.modules if name.startswith('llamatelemetry.transformers.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "loaded ['llamatelemetry.transformers.plugin']"
