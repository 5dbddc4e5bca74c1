from __future__ import annotations

import subprocess
import sys

import pytest

import llamatelemetry.quantization


def test_every_public_name_is_there():
    names = [name for name in dir(llamatelemetry.quantization) if not name.startswith("_")]
    assert {"FILE_TYPES", "quantize", "read_importance"} <= set(names)
    for name in names:
        assert getattr(llamatelemetry.quantization, name) is not None


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = llamatelemetry.quantization.nothing_like_it


def test_importing_the_package_loads_no_third_party_module():
    code = (
        "import sys; before = set(sys.modules); import llamatelemetry.quantization;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(new - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['llamatelemetry']"
