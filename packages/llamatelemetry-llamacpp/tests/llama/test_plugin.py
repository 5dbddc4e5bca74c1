from __future__ import annotations

import subprocess
import sys

import click

from llamatelemetry.deployment.stage import DeployStage
from llamatelemetry.llama.backend import LlamaCppBackend
from llamatelemetry.plugins import Registry, load_plugins


def test_the_backend_is_found_by_its_name():
    assert load_plugins().resolve_backend("llamacpp") is LlamaCppBackend


def test_the_verbs_are_click_commands_with_a_summary():
    group = Registry("command")
    load_plugins().add_commands(group)
    found = {item.name: item for item in group if item.target.startswith("llamatelemetry.llama.")}
    assert set(found) == {"demo", "run"}
    for name, item in found.items():
        assert item.summary
        assert isinstance(group.resolve(name), click.Command)


def test_the_stage_that_deploys_is_there_once_a_server_can_be_started():
    plugins = load_plugins()
    assert plugins.resolve_stage("deploy") is DeployStage
    assert plugins.stages.get("deploy").summary


def test_doctor_is_told_what_would_run_a_model():
    found = {check.name for check in load_plugins().checks()["llamacpp"]}
    assert {"runtime", "demo model"} <= found


def test_listing_plugins_loads_neither_the_runtime_nor_an_http_client():
    code = (
        "import sys; from llamatelemetry.plugins import load_plugins; plugins = load_plugins();"
        "assert 'llamacpp' in plugins.backends;"
        "print({'requests', 'xllamacpp', 'llamatelemetry.llama.backend'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
