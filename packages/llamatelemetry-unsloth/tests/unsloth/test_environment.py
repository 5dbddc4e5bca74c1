"""unsloth is told to install nothing, report to nobody and write nothing where it stands."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from llamatelemetry.errors import NotSupportedError
from llamatelemetry.unsloth.environment import refuse_its_export, tame_unsloth


def test_installing_and_reporting_are_off_whatever_they_were(monkeypatch, tmp_path):
    monkeypatch.setenv("UNSLOTH_AUTO_INSTALL", "1")
    monkeypatch.setenv("UNSLOTH_DISABLE_STATISTICS", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("UNSLOTH_COMPILE_LOCATION", raising=False)

    tame_unsloth()

    assert os.environ["UNSLOTH_AUTO_INSTALL"] == "0"
    assert os.environ["UNSLOTH_DISABLE_STATISTICS"] == "1"
    assert os.environ["UNSLOTH_COMPILE_LOCATION"] == str(tmp_path / "llamatelemetry" / "unsloth")
    monkeypatch.setenv("UNSLOTH_COMPILE_LOCATION", "mine")
    tame_unsloth()
    assert os.environ["UNSLOTH_COMPILE_LOCATION"] == "mine"


def test_its_own_export_is_refused_and_ours_is_named():
    model = SimpleNamespace(save_pretrained_gguf=print)

    refuse_its_export(model)

    with pytest.raises(NotSupportedError, match="export_gguf"):
        model.save_pretrained_gguf("out")
    assert not hasattr(model, "push_to_hub_gguf")
