"""Sphinx settings: hand-written pages in MyST, the reference made from the code itself."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "llamatelemetry"
author = "The llamatelemetry authors"
release = metadata.version("llamatelemetry-core")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "generated_reference"]
exclude_patterns = ["_build"]
templates_path: list[str] = []

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "llamatelemetry"
html_show_sourcelink = False

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# Fields are described in the class docstring; as :ivar: they do not become second objects.
napoleon_use_ivar = True
napoleon_numpy_docstring = False

# The build needs no network, so names of other projects have nothing to point at. Ours all must.
_OTHERS = ("click", "numpy", "opentelemetry", "pluggy", "pytest", "requests", "rich", *sys.stdlib_module_names)
# These of theirs are written without their module: by Sphinx, or because they are imported for types only.
_BARE = ("LoggerProvider", "Meter", "MeterProvider", "Path", "SpanProcessor", "TracerProvider")
nitpick_ignore_regex = [(r"py:.*", rf"({'|'.join(_OTHERS)})(\..*)?"), (r"py:class", "|".join(_BARE))]
