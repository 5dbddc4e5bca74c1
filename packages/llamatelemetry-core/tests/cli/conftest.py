"""A plugin whose verbs end in every way a verb can."""

from __future__ import annotations

from typing import Any

import pytest

VERBS = ("answers", "fails", "names", "bad-request", "waits", "returns", "writes", "not-a-command", "absent")


@pytest.fixture
def verbs(shelf: Any) -> Any:
    """The shelf, with the verbs above."""
    shelf.plant(
        "verbs",
        f"""
        from llamatelemetry.plugins import hookimpl

        @hookimpl
        def register_commands(group):
            for name in {VERBS}:
                group.add(name, "verbs_plugin_targets:" + name.replace("-", "_"), summary="Does what it says.")
        """,
        targets="""
        import time
        import click
        from llamatelemetry.cli.output import json_option, print_json
        from llamatelemetry.errors import BackendStartError, InvalidRequestError

        @click.command()
        @json_option
        def answers(as_json):
            print_json({"answer": "ünïcode"}) if as_json else click.echo("ünïcode")

        @click.command()
        def names():
            click.echo("a" + chr(0xD800))

        @click.command()
        @json_option
        def fails(as_json):
            raise BackendStartError("it did not start: out of memory", ("loading", "killed"))

        @click.command()
        @json_option
        @click.option("--max-tokens", type=int)
        def bad_request(as_json, max_tokens):
            raise InvalidRequestError("max_tokens", max_tokens, "give a whole number from 1")

        @click.command()
        def waits():
            try:
                click.echo("ready")
                time.sleep(60)
            finally:
                click.echo("cleaned up")

        @click.command()
        def returns():
            return 5

        @click.command()
        def writes():
            click.echo("x" * 1_000_000)

        not_a_command = 1
        """,
    )
    return shelf
