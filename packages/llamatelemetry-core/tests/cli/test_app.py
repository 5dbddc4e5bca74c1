"""How a command line ends: what is said, where, and with which exit code. Real processes."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest


def test_an_answer_goes_to_standard_output_and_exits_with_0(verbs: Any) -> None:
    done = verbs.llamatelemetry("answers")
    assert (done.stdout, done.stderr, done.returncode) == ("ünïcode\n", "", 0)


def test_json_is_one_object_in_ascii(verbs: Any) -> None:
    done = verbs.llamatelemetry("answers", "--json", env={"PYTHONIOENCODING": "ascii"})
    assert done.stdout.isascii()
    assert json.loads(done.stdout) == {"answer": "ünïcode"}


def test_a_typed_error_is_one_message_on_standard_error_without_a_traceback(verbs: Any) -> None:
    done = verbs.llamatelemetry("bad-request", "--max-tokens", "0")
    assert done.stderr == "Error: max_tokens=0 is not valid: give a whole number from 1\n"
    assert (done.stdout, done.returncode) == ("", 1)


def test_with_json_a_typed_error_is_the_one_object_on_standard_output(verbs: Any) -> None:
    done = verbs.llamatelemetry("fails", "--json")
    error = json.loads(done.stdout)["error"]
    assert error["type"] == "BackendStartError"
    assert error["message"].splitlines()[0] == "it did not start: out of memory"
    assert (done.stderr, done.returncode) == ("", 1)


def test_wrong_usage_exits_with_2_and_points_to_help(verbs: Any) -> None:
    done = verbs.llamatelemetry("bad-request", "--max-tokens", "many")
    assert done.returncode == 2
    assert "'many' is not a valid integer" in done.stderr
    assert "Try 'llamatelemetry bad-request --help' for help." in done.stderr


def test_wrong_usage_with_json_is_json_too(verbs: Any) -> None:
    done = verbs.llamatelemetry("answers", "--json", "--nonsense")
    assert json.loads(done.stdout)["error"]["type"] == "NoSuchOption"
    assert (done.stderr, done.returncode) == ("", 2)


def test_half_a_character_is_shown_as_it_is_escaped(verbs: Any) -> None:
    assert verbs.llamatelemetry("names").stdout == "a\\ud800\n"


def test_a_verb_may_return_its_exit_code(verbs: Any) -> None:
    assert verbs.llamatelemetry("returns").returncode == 5


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_unwinds_the_verb_and_leaves_no_traceback(verbs: Any, number: int, code: int) -> None:
    with verbs.start("-u", "-m", "llamatelemetry.cli", "waits") as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)
    assert stdout == "cleaned up\n"
    assert stderr.strip() == ""
    assert process.returncode == code


@pytest.mark.parametrize("arguments", [("writes",), ("plugins", "--json"), ("plugins",), ("doctor",)])
def test_a_reader_that_leaves_early_ends_it_quietly(verbs: Any, arguments: tuple[str, ...]) -> None:
    with verbs.start("-m", "llamatelemetry.cli", *arguments) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_the_version_is_that_of_core(shelf: Any) -> None:
    from importlib.metadata import version

    assert shelf.llamatelemetry("--version").stdout == f"llamatelemetry, version {version('llamatelemetry-core')}\n"


def test_the_console_script_and_the_module_are_the_same_program(shelf: Any) -> None:
    script = "import sys; from importlib.metadata import entry_points; sys.argv = ['llamatelemetry', '--help']; "
    script += "entry_points(group='console_scripts')['llamatelemetry'].load()()"
    assert shelf.run("-c", script).stdout == shelf.llamatelemetry("--help").stdout
