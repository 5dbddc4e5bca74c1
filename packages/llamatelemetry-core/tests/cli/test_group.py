"""Verbs are found by name, imported when used, and missing ones say what brings them."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest

from llamatelemetry.cli.app import command_line
from llamatelemetry.cli.group import VerbGroup
from llamatelemetry.errors import MissingDependencyError
from llamatelemetry.plugins import Plugins


@pytest.fixture
def bare() -> VerbGroup:
    """The command line of a machine on which no plugin is installed."""
    group = command_line()
    group._plugins = Plugins([])
    return group


def test_help_lists_every_verb_and_imports_none(verbs: Any) -> None:
    code = """
import sys
from llamatelemetry.cli.app import run
assert run(["--help"]) == 0
verbs = ["verbs_plugin_targets", "llamatelemetry.llama.cli", "llamatelemetry.cli.doctor", "opentelemetry.sdk", "rich"]
print([name for name in verbs if name in sys.modules], "verbs_plugin" in sys.modules)
"""
    done = verbs.run("-c", code)
    for name in ("answers", "demo", "doctor", "plugins", "replay", "run"):
        assert f"\n  {name} " in done.stdout
    assert "Does what it says." in done.stdout
    assert done.stdout.endswith("[] True\n"), done.stderr


def test_a_built_in_verb_runs_without_looking_for_plugins(shelf: Any) -> None:
    shelf.plant("good")
    code = "import sys; from llamatelemetry.cli.app import run; run([sys.argv[1], '--help']);"
    code += "print('good_plugin' in sys.modules)"
    built_in, unknown = shelf.run("-c", code, "replay"), shelf.run("-c", code, "nothing")
    assert built_in.stdout.startswith("Usage: llamatelemetry replay")
    assert built_in.stdout.endswith("\nFalse\n")
    assert unknown.stdout == "True\n"


def test_help_names_plugins_that_are_not_in_full_use(shelf: Any) -> None:
    shelf.plant("torn", "raise ValueError")
    shelf.plant("unwanted")
    done = shelf.llamatelemetry("--help", env={"LLAMATELEMETRY_DISABLED_PLUGINS": "unwanted"})
    assert "Not in full use: torn. See llamatelemetry plugins." in done.stdout
    assert done.stderr == ""


def test_a_plugin_cannot_take_a_built_in_verb(shelf: Any) -> None:
    shelf.plant(
        "greedy",
        """
        from llamatelemetry.plugins import hookimpl

        @hookimpl
        def register_commands(group):
            group.add("doctor", "greedy_plugin_targets:doctor")
            group.add("also", "greedy_plugin_targets:also")
        """,
        targets="import click\n@click.command()\ndef also(): click.echo('also')",
    )
    assert shelf.llamatelemetry("also").stdout == "also\n"
    assert shelf.llamatelemetry("doctor", "--help").stdout.startswith("Usage: llamatelemetry doctor")
    assert "command 'doctor' is already registered by llamatelemetry" in shelf.plugins()["reports"]["greedy"]["error"]


@pytest.mark.parametrize(
    ("verb", "error"),
    [
        ("absent", "command 'absent' of plugin 'verbs' cannot be used: verbs_plugin_targets has no 'absent'"),
        (
            "not-a-command",
            "command 'not-a-command' cannot be used: verbs_plugin_targets:not_a_command is not a click command",
        ),
    ],
)
def test_a_verb_that_does_not_resolve_is_one_typed_error(verbs: Any, verb: str, error: str) -> None:
    done = verbs.llamatelemetry(verb, "--json")
    assert json.loads(done.stdout) == {"error": {"type": "PluginError", "message": error}}
    assert done.returncode == 1


def test_an_unknown_verb_is_wrong_usage_with_the_closest_name(verbs: Any) -> None:
    done = verbs.llamatelemetry("answer")
    assert done.returncode == 2
    assert "There is no command 'answer'. Did you mean 'answers'?" in done.stderr


@pytest.mark.parametrize("verb", ["run", "demo"])
def test_run_and_demo_name_the_command_that_installs_them(bare: VerbGroup, verb: str) -> None:
    with pytest.raises(MissingDependencyError, match="Run: pip install 'llamatelemetry-llamacpp") as raised:
        bare.main([verb, "-m", "model.gguf"], standalone_mode=False)
    assert raised.value.needed_for == f"llamatelemetry {verb}"


def test_run_of_a_disabled_plugin_says_that_it_is_disabled(shelf: Any) -> None:
    done = shelf.llamatelemetry("run", env={"LLAMATELEMETRY_DISABLED_PLUGINS": "llamacpp"})
    assert done.returncode == 1
    assert done.stderr.startswith("Error: llamatelemetry run is not available. Plugin 'llamacpp' ")
    assert "(disabled): named by disabled_plugins (LLAMATELEMETRY_DISABLED_PLUGINS)" in done.stderr


def test_shell_completion_offers_verbs(bare: VerbGroup) -> None:
    offered = bare.shell_complete(click.Context(bare), "d")
    assert [item.value for item in offered] == ["deploy", "doctor"]
