"""Stages of pipelines that plugins bring."""

from __future__ import annotations

from typing import Any

STAGES = """
from llamatelemetry.plugins import hookimpl

@hookimpl
def register_pipeline_stages(registry):
    registry.add("{name}", "{module}_targets:Stage", summary="Does something.")
"""
TARGETS = """
class Stage:
    pass

Broken = 1
"""


def test_a_stage_is_listed_without_being_imported_and_resolved_when_asked_for(shelf: Any) -> None:
    shelf.plant("mix", STAGES.format(name="mix", module="mix_plugin"), targets=TARGETS)
    answer = shelf.ask(
        """
        names = [(each.name, each.summary, each.plugin) for each in plugins.stages if each.plugin == "mix"]
        before = "mix_plugin_targets" in sys.modules
        answer = [names, before, plugins.resolve_stage("mix").__name__]
        """
    )
    assert answer == [[["mix", "Does something.", "mix"]], False, "Stage"]
    assert {"name": "mix", "target": "mix_plugin_targets:Stage", "plugin": "mix"} in shelf.plugins()["stages"]
    assert "mix (mix)" in shelf.llamatelemetry("plugins").stdout


def test_a_plugin_whose_registration_breaks_takes_no_other_with_it(shelf: Any) -> None:
    shelf.plant("bad", STAGES.format(name="bad", module="bad_plugin") + "    raise SystemExit('no')\n")
    shelf.plant("mix", STAGES.format(name="mix", module="mix_plugin"), targets=TARGETS)
    answer = shelf.ask(
        """
        states = {each.name: each.state for each in plugins.reports}
        answer = ["bad" in plugins.stages, "mix" in plugins.stages, states["bad"], states["mix"]]
        """
    )
    assert answer == [False, True, "failed", "loaded"]


def test_a_stage_that_is_not_there_or_cannot_be_used_is_a_typed_error(shelf: Any) -> None:
    code = STAGES.format(name="mix", module="mix_plugin").replace(":Stage", ":Broken")
    shelf.plant("mix", code, targets=TARGETS)
    answer = shelf.ask(
        """
        from llamatelemetry.errors import PluginError, UnknownNameError
        answer = []
        for name in ("mix", "mux"):
            try:
                plugins.resolve_stage(name)
            except (PluginError, UnknownNameError) as error:
                answer.append(str(error))
        """
    )
    assert "is not a class" in answer[0]
    assert "no stage is named 'mux'; registered: " in answer[1]
    assert "mix" in answer[1]
