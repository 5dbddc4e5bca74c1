from __future__ import annotations

import subprocess
import sys


def test_listing_plugins_loads_neither_numpy_nor_kernels():
    code = (
        "import sys; from llamatelemetry.plugins import load_plugins; plugins = load_plugins();"
        "(report,) = [report for report in plugins.reports if report.name == 'quantization'];"
        "print(report.state, [name for name in sys.modules if name.startswith('llamatelemetry.quantization.')],"
        "'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "loaded ['llamatelemetry.quantization.plugin'] False"
