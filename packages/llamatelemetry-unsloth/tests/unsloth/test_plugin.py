"""What the plugin registers is there under its names, and listing it imports none of it."""

from __future__ import annotations

import importlib
import subprocess
import sys

import llamatelemetry.unsloth as room
from llamatelemetry.plugins import Registry
from llamatelemetry.unsloth import plugin

LIST = """
import sys
from llamatelemetry.plugins import load_plugins
load_plugins()
print(sorted(name for name in sys.modules if name.startswith("llamatelemetry.unsloth")))
"""


def test_stages_have_the_names_that_they_are_registered_by():
    stages = Registry("stage")
    plugin.register_pipeline_stages(stages)

    assert [stages.resolve(each.name).name for each in stages] == ["finetune", "merge_lora"]


def test_every_public_name_is_there():
    for name in set(dir(room)) & set(room._HOMES):
        assert getattr(room, name) is getattr(importlib.import_module(f"{room.__name__}.{room._HOMES[name]}"), name)


def test_listing_plugins_imports_names_only():
    done = subprocess.run([sys.executable, "-c", LIST], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == str(["llamatelemetry.unsloth", "llamatelemetry.unsloth.plugin"])
