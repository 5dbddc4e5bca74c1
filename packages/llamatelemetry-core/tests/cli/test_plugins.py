"""``llamatelemetry plugins`` tells the truth, in words and in JSON."""

from __future__ import annotations

from typing import Any


def test_each_plugin_is_shown_with_its_state_reason_and_fix(shelf: Any) -> None:
    shelf.plant("good")
    shelf.plant("poor", requires=("nowhere-to-be-found",))
    shelf.plant("torn", "raise ValueError('torn apart')")
    shelf.plant("unwanted")
    denied = "unwanted,llamacpp,quantization,transformers,unsloth"
    done = shelf.llamatelemetry("plugins", env={"LLAMATELEMETRY_DISABLED_PLUGINS": denied, "COLUMNS": "200"})
    assert done.returncode == 0
    assert done.stderr == ""
    assert [line.rstrip() for line in done.stdout.splitlines()] == [
        "✓ good  good-plugin 1.0  loaded",
        "    register_backends",
        "! llamacpp  llamatelemetry-llamacpp 0.1.0  disabled",
        "    named by disabled_plugins (LLAMATELEMETRY_DISABLED_PLUGINS)",
        "✗ poor  poor-plugin 1.0  missing_dependency",
        "    it needs what is not installed: nowhere-to-be-found",
        "    fix: pip install nowhere-to-be-found",
        "! quantization  llamatelemetry-quantization 0.1.0  disabled",
        "    named by disabled_plugins (LLAMATELEMETRY_DISABLED_PLUGINS)",
        "✗ torn  torn-plugin 1.0  failed",
        "    import of torn_plugin raised ValueError: torn apart",
        "    fix: pip install --upgrade torn-plugin, or set LLAMATELEMETRY_DISABLED_PLUGINS=torn",
        "! transformers  llamatelemetry-transformers 0.1.0  disabled",
        "    named by disabled_plugins (LLAMATELEMETRY_DISABLED_PLUGINS)",
        "! unsloth  llamatelemetry-unsloth 0.1.0  disabled",
        "    named by disabled_plugins (LLAMATELEMETRY_DISABLED_PLUGINS)",
        "! unwanted  unwanted-plugin 1.0  disabled",
        "    named by disabled_plugins (LLAMATELEMETRY_DISABLED_PLUGINS)",
        "",
        "backends  echo, good (good)",
        "commands  deploy, doctor, gpu, manifest, pipeline, plan, plugins, replay, topo",
        "stages  benchmark",
    ]


def test_narrow_terminals_and_ascii_lose_nothing(shelf: Any) -> None:
    shelf.plant("torn", "raise ValueError('torn apart')")
    done = shelf.llamatelemetry("plugins", env={"COLUMNS": "40", "PYTHONIOENCODING": "ascii"})
    assert max(map(len, done.stdout.splitlines())) <= 40
    assert "x torn" in done.stdout
    assert "import of torn_plugin raised ValueError: torn apart" in " ".join(done.stdout.split())


def test_json_names_who_registered_what(shelf: Any) -> None:
    shelf.plant("good")
    said = shelf.plugins()
    assert said["backends"]["good"] == {"name": "good", "target": "good_plugin_targets:Backend", "plugin": "good"}
    assert said["backends"]["echo"]["plugin"] == ""
    assert said["commands"]["demo"]["plugin"] == "llamacpp"
    assert said["reports"]["llamacpp"]["state"] == "loaded"
