"""Real distributions, broken in every way we could think of, beside one that is not."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest

CORE = version("llamatelemetry-core")
HOOKS = (
    "configure, detect_resource, register_backends, register_checks, register_commands, register_enrichers, "
    "register_model_readers, register_pipeline_stages"
)


@pytest.fixture
def shelf(shelf: Any) -> Any:
    shelf.plant("good")
    return shelf


def assert_good_works(shelf: Any, said: Any) -> None:
    assert said["reports"]["good"] == {
        "name": "good",
        "distribution": "good-plugin",
        "version": "1.0",
        "hooks": ["register_backends"],
        "state": "loaded",
        "error": None,
        "fix": None,
    }
    assert shelf.ask("answer = plugins.resolve_backend('good').__name__") == "Backend"
    assert shelf.ask("answer = plugins.resolve_backend('echo').__name__") == "EchoBackend"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def broken(:", "SyntaxError: invalid syntax"),
        ("raise ValueError", "ValueError"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_failed_and_stops_nothing(shelf: Any, code: str, error: str) -> None:
    shelf.plant("broken", code)
    said = shelf.plugins()
    report = said["reports"]["broken"]
    assert (report["state"], report["hooks"]) == ("failed", [])
    assert report["error"].startswith(f"import of broken_plugin raised {error}")
    assert "LLAMATELEMETRY_DISABLED_PLUGINS=broken" in report["fix"]
    assert_good_works(shelf, said)


def test_an_unknown_hook_is_named_with_those_that_exist_and_the_known_ones_are_used(shelf: Any) -> None:
    shelf.plant(
        "newer",
        """
        from llamatelemetry.plugins import hookimpl

        @hookimpl
        def register_dashboards(registry): ...

        @hookimpl
        def register_backends(registry):
            registry.add("newer", "newer_plugin_targets:Backend")
        """,
    )
    said = shelf.plugins()
    assert said["reports"]["newer"]["state"] == "failed"
    assert said["reports"]["newer"]["error"] == f"there is no hook register_dashboards; hooks are {HOOKS}"
    assert said["reports"]["newer"]["hooks"] == ["register_backends"]
    assert said["backends"]["newer"]["plugin"] == "newer"
    assert_good_works(shelf, said)


def test_an_unknown_hook_marked_optional_is_no_fault(shelf: Any) -> None:
    shelf.plant(
        "careful",
        """
        from llamatelemetry.plugins import hookimpl

        @hookimpl(optionalhook=True)
        def register_dashboards(registry): ...
        """,
    )
    assert shelf.plugins()["reports"]["careful"]["state"] == "loaded"


def test_a_plugin_without_the_marker_is_told_so(shelf: Any) -> None:
    shelf.plant("unmarked", "def register_backends(registry): ...")
    report = shelf.plugins()["reports"]["unmarked"]
    assert report["state"] == "failed"
    assert "no function marked with llamatelemetry.plugins.hookimpl" in report["error"]


def test_a_hook_with_an_argument_that_does_not_exist_is_failed(shelf: Any) -> None:
    shelf.plant(
        "wrong",
        """
        from llamatelemetry.plugins import hookimpl

        @hookimpl
        def register_backends(registry, engine): ...
        """,
    )
    said = shelf.plugins()
    assert said["reports"]["wrong"]["state"] == "failed"
    assert "Argument(s) {'engine'}" in said["reports"]["wrong"]["error"]
    assert_good_works(shelf, said)


def test_what_a_hook_registered_before_it_raised_is_dropped_and_its_other_hooks_count(shelf: Any) -> None:
    shelf.plant(
        "raising",
        """
        from llamatelemetry.plugins import hookimpl

        @hookimpl
        def register_backends(registry):
            registry.add("half", "raising_plugin_targets:Backend")
            raise KeyError("lost")

        @hookimpl
        def register_commands(group):
            group.add("wave", "raising_plugin_targets:wave", summary="Wave.")
        """,
    )
    said = shelf.plugins()
    assert said["reports"]["raising"]["state"] == "failed"
    assert said["reports"]["raising"]["error"] == "hook register_backends raised KeyError: 'lost'"
    assert said["reports"]["raising"]["hooks"] == ["register_backends", "register_commands"]
    assert "half" not in said["backends"]
    assert said["commands"]["wave"]["plugin"] == "raising"
    assert_good_works(shelf, said)


def test_each_failing_hook_has_its_line(shelf: Any) -> None:
    shelf.plant(
        "raising",
        """
        import sys
        from llamatelemetry.plugins import hookimpl

        @hookimpl
        def register_backends(registry):
            sys.exit("not today")

        @hookimpl
        def register_commands():
            raise OSError(28, "No space left on device")
        """,
    )
    assert shelf.plugins()["reports"]["raising"]["error"].splitlines() == [
        "hook register_backends raised SystemExit: not today",
        "hook register_commands raised OSError: [Errno 28] No space left on device",
    ]


@pytest.mark.parametrize(
    ("name", "target", "error"),
    [
        ("ok", "no_colon", "backend 'ok' has the target 'no_colon'"),
        ("not ok", "a:b", "'not ok' cannot name a backend"),
    ],
)
def test_a_malformed_registration_is_a_failure_of_its_plugin(shelf: Any, name: str, target: str, error: str) -> None:
    shelf.plant(
        "sloppy",
        f"""
        from llamatelemetry.plugins import hookimpl

        @hookimpl
        def register_backends(registry):
            registry.add({name!r}, {target!r})
        """,
    )
    said = shelf.plugins()
    assert error in said["reports"]["sloppy"]["error"]
    assert_good_works(shelf, said)


def test_a_plugin_for_another_core_is_incompatible_and_not_imported(shelf: Any) -> None:
    shelf.plant("old", "raise AssertionError('imported')", requires=("llamatelemetry_core >=99,<100",))
    said = shelf.plugins()
    assert said["reports"]["old"]["state"] == "incompatible"
    assert said["reports"]["old"]["error"] == f"it needs llamatelemetry-core<100,>=99, and {CORE} is installed"
    assert said["reports"]["old"]["fix"] == "pip install --upgrade old-plugin llamatelemetry-core"
    assert_good_works(shelf, said)


def test_a_plugin_with_a_missing_dependency_says_how_to_install_it_and_is_not_imported(shelf: Any) -> None:
    shelf.plant(
        "poor",
        "raise AssertionError('imported')",
        requires=(
            "llamatelemetry-core>=0.1",
            "nowhere-to-be-found[all]>=2,<3; python_version >= '3.11'",
            "only-for-the-extra; extra == 'more'",
            "only-for-windows; sys_platform == 'win32'",
            "click",
        ),
    )
    said = shelf.plugins()
    assert said["reports"]["poor"]["state"] == "missing_dependency"
    assert said["reports"]["poor"]["error"] == "it needs what is not installed: nowhere-to-be-found"
    assert said["reports"]["poor"]["fix"] == "pip install 'nowhere-to-be-found[all]<3,>=2'"
    assert_good_works(shelf, said)


def test_listed_but_not_allowed_is_disabled_and_not_imported(shelf: Any) -> None:
    shelf.plant("unwanted", "raise AssertionError('imported')")
    said = shelf.plugins({"LLAMATELEMETRY_PLUGINS": "good, llamacpp"})
    assert said["reports"]["unwanted"]["state"] == "disabled"
    assert said["reports"]["unwanted"]["error"] == "not among plugins (LLAMATELEMETRY_PLUGINS)"
    assert said["reports"]["good"]["state"] == "loaded"


def test_the_deny_list_wins_over_the_allow_list(shelf: Any) -> None:
    said = shelf.plugins({"LLAMATELEMETRY_PLUGINS": "good", "LLAMATELEMETRY_DISABLED_PLUGINS": "good"})
    assert said["reports"]["good"]["state"] == "disabled"
    assert "LLAMATELEMETRY_DISABLED_PLUGINS" in said["reports"]["good"]["error"]
    assert "good" not in said["backends"]


def test_of_two_backends_with_one_name_the_first_plugin_by_name_has_it(shelf: Any) -> None:
    same = """
        from llamatelemetry.plugins import hookimpl

        @hookimpl
        def register_backends(registry):
            registry.add("good", "late_plugin_targets:Backend")
            registry.add("echo", "late_plugin_targets:Backend")
            registry.add("late", "late_plugin_targets:Backend")
    """
    shelf.plant("late", same)
    said = shelf.plugins()
    assert said["backends"]["good"]["plugin"] == "good"
    assert said["backends"]["late"]["plugin"] == "late"
    assert said["reports"]["late"]["error"].splitlines() == [
        "backend 'good' is already registered by plugin 'good'; the first one is kept",
        "backend 'echo' is already registered by llamatelemetry itself; the first one is kept",
    ]
    assert_good_works(shelf, said)


def test_of_two_distributions_with_one_plugin_name_the_first_is_used_and_the_second_reported(shelf: Any) -> None:
    shelf.plant("good", distribution="good-twin")
    code = "answer = [[item.distribution, item.state, item.error] for item in plugins.reports if item.name == 'good']"
    assert shelf.ask(code) == [
        ["good-plugin", "loaded", None],
        ["good-twin", "failed", "good-plugin has a plugin of the same name, which is used"],
    ]
    disabled = shelf.ask(code, {"LLAMATELEMETRY_DISABLED_PLUGINS": "good"})
    assert [state for _, state, _ in disabled] == ["disabled", "disabled"]
