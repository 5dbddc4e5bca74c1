"""What the rest of core gets when it asks plugins."""

from __future__ import annotations

from typing import Any

import pytest

from llamatelemetry.config import Settings
from llamatelemetry.errors import UnknownNameError
from llamatelemetry.plugins import Plugins, load_plugins


def test_listing_plugins_imports_no_target(shelf: Any) -> None:
    shelf.plant(
        "good",
        """
        from llamatelemetry.plugins import hookimpl

        @hookimpl
        def register_backends(registry):
            registry.add("good", "good_plugin_targets:Backend")

        @hookimpl
        def register_enrichers(registry):
            registry.add("good", "good_plugin_targets:Enricher")

        @hookimpl
        def register_checks(registry):
            registry.add("good", "good_plugin_targets:check")

        @hookimpl
        def register_commands(group):
            group.add("good", "good_plugin_targets:verb")
        """,
        targets="raise AssertionError('imported')",
    )
    loaded = shelf.ask(
        """
        from llamatelemetry.plugins import Registry
        plugins.add_commands(Registry("command"))
        plugins.reports, plugins.backends.names
        targets = ("good_plugin_targets", "llamatelemetry.llama.backend", "llamatelemetry.backends.echo", "click")
        answer = ["good_plugin" in sys.modules, [name for name in targets if name in sys.modules]]
        """
    )
    assert loaded == [True, []]


def test_a_backend_nobody_registers_is_an_error_that_lists_those_there_are(shelf: Any) -> None:
    shelf.plant("good")
    error = shelf.ask(
        """
        from llamatelemetry.errors import UnknownNameError
        try:
            plugins.resolve_backend("gone")
        except UnknownNameError as error:
            answer = [error.kind, error.name, list(error.known), str(error)]
        """,
        {"LLAMATELEMETRY_DISABLED_PLUGINS": "transformers"},
    )
    assert error == [
        "backend",
        "gone",
        ["echo", "good", "llamacpp"],
        "no backend is named 'gone'; registered: echo, good, llamacpp.",
    ]


def test_a_known_backend_whose_plugin_is_disabled_says_so(shelf: Any) -> None:
    error = shelf.ask(
        """
        try:
            plugins.resolve_backend("llamacpp")
        except LookupError as error:
            answer = str(error)
        """,
        {"LLAMATELEMETRY_DISABLED_PLUGINS": "llamacpp"},
    )
    assert "llamatelemetry-llamacpp is installed but not usable (disabled)" in error
    assert "LLAMATELEMETRY_DISABLED_PLUGINS" in error


def test_a_known_backend_that_is_not_installed_says_what_brings_it() -> None:
    with pytest.raises(UnknownNameError, match=r"Run: pip install 'llamatelemetry-llamacpp\[embedded\]'$"):
        Plugins([]).resolve_backend("llamacpp")


def test_a_target_that_does_not_resolve_is_one_typed_error_and_in_the_report(shelf: Any) -> None:
    shelf.plant(
        "hollow",
        """
        from llamatelemetry.plugins import hookimpl

        @hookimpl
        def register_backends(registry):
            registry.add("no-attribute", "hollow_plugin_targets:Nothing")
            registry.add("no-module", "hollow_plugin_nowhere:Backend")
            registry.add("no-class", "hollow_plugin_targets:number")
            registry.add("exits", "hollow_plugin_exits:Backend")
            registry.add("fine", "hollow_plugin_targets:Backend")
        """,
        targets="number = 1\nclass Backend: ...",
    )
    (shelf.folder / "hollow_plugin_exits.py").write_text("raise SystemExit")
    errors, name, state, report = shelf.ask(
        """
        from llamatelemetry.errors import PluginError
        errors = []
        for name in ("no-attribute", "no-module", "no-class", "exits", "no-module"):
            try:
                plugins.resolve_backend(name)
            except PluginError as error:
                errors.append(str(error))
        mine = [report for report in plugins.reports if report.name == "hollow"][0]
        answer = [errors, plugins.resolve_backend("fine").__name__, mine.state, mine.error]
        """
    )
    nowhere = "backend 'no-module' of plugin 'hollow' cannot be used: import of hollow_plugin_nowhere"
    assert errors[:4] == [
        "backend 'no-attribute' of plugin 'hollow' cannot be used: hollow_plugin_targets has no 'Nothing'",
        f"{nowhere} raised ModuleNotFoundError: No module named 'hollow_plugin_nowhere'",
        "backend 'no-class' cannot be used: hollow_plugin_targets:number is not a class",
        "backend 'exits' of plugin 'hollow' cannot be used: import of hollow_plugin_exits raised SystemExit",
    ]
    assert (name, state) == ("Backend", "failed")
    assert report.splitlines() == errors[:4]


def test_an_enricher_that_cannot_be_made_is_left_out_and_reported(shelf: Any) -> None:
    shelf.plant(
        "watch",
        """
        from llamatelemetry.plugins import hookimpl

        @hookimpl
        def register_enrichers(registry):
            registry.add("works", "watch_plugin_targets:Works")
            registry.add("raises", "watch_plugin_targets:Raises")
            registry.add("absent", "watch_plugin_targets:Absent")
        """,
        targets="""
        class Works: ...

        class Raises:
            def __init__(self):
                raise RuntimeError("no GPU")
        """,
    )
    names, error = shelf.ask(
        """
        names = [type(enricher).__name__ for enricher in plugins.enrichers()]
        answer = [names, [report.error for report in plugins.reports if report.name == "watch"][0]]
        """,
        {"LLAMATELEMETRY_DISABLED_PLUGINS": "transformers"},
    )
    assert names == ["Works"]
    assert error.splitlines() == [
        "enricher 'raises' raised RuntimeError: no GPU",
        "enricher 'absent' of plugin 'watch' cannot be used: watch_plugin_targets has no 'Absent'",
    ]


def test_settings_and_resource_pass_through_every_plugin_and_around_broken_ones(shelf: Any) -> None:
    answers = {
        "a": ("replace(settings, service_name='a')", "{'place': 'a', 'a': 1, 'gpus': ('x', 'y'), 'tags': ['z']}"),
        "b": ("1 / 0", "1 / 0"),
        "c": ("'not settings'", "{'c': object()}"),
        "d": ("replace(settings, semconv=('gen_ai',))", "{'place': 'd'}"),
        "e": ("None", "None"),
        "f": ("None", "{'f': ['x', 1]}"),
    }
    for name, (settings, resource) in answers.items():
        shelf.plant(
            name,
            f"""
            from dataclasses import replace
            from llamatelemetry.plugins import hookimpl

            @hookimpl
            def configure(settings):
                return {settings}

            @hookimpl
            def detect_resource():
                return {resource}
            """,
        )
    configured, resource, reports = shelf.ask(
        """
        from llamatelemetry.config import Settings
        settings = plugins.configure(Settings())
        resource = plugins.detect_resource(settings)
        plugins.configure(Settings())
        reports = {report.name: report.error for report in plugins.reports}
        answer = [[settings.service_name, settings.semconv], resource, reports]
        """
    )
    assert configured == ["a", ["gen_ai"]]
    assert resource == {"place": "d", "a": 1, "gpus": ["x", "y"], "tags": ["z"]}
    assert reports["a"] is reports["d"] is reports["e"] is None
    assert reports["b"].splitlines() == [
        "hook configure raised ZeroDivisionError: division by zero",
        "hook detect_resource raised ZeroDivisionError: division by zero",
    ]
    assert reports["c"].splitlines() == [
        "hook configure must return Settings or None, not str",
        "hook detect_resource must return names to text, numbers, booleans or lists of text",
    ]
    assert reports["f"] == reports["c"].splitlines()[1]


def test_a_broken_check_is_what_doctor_finds(shelf: Any) -> None:
    shelf.plant(
        "look",
        """
        from llamatelemetry.plugins import hookimpl

        @hookimpl
        def register_checks(registry):
            for name in ("fine", "raises", "wrong", "absent"):
                registry.add(name, "look_plugin_targets:" + name)
        """,
        targets="""
        from llamatelemetry.plugins import Check, CheckState

        def fine():
            return [Check(name="lamp", state=CheckState.WARNING, detail="dim", fix="turn it up")]

        def raises():
            raise RuntimeError("dark")

        def wrong():
            return ["lamp"]
        """,
    )
    found = shelf.ask(
        """
        answer = {name: [[check.name, check.state, check.detail, check.fix] for check in checks]
                  for name, checks in plugins.checks().items()}
        """,
        {"LLAMATELEMETRY_DISABLED_PLUGINS": "llamacpp,transformers,unsloth"},
    )
    assert found == {
        "fine": [["lamp", "warning", "dim", "turn it up"]],
        "raises": [["raises", "error", "check raised RuntimeError: dark", ""]],
        "wrong": [
            ["wrong", "error", "check raised TypeError: it must return a list of llamatelemetry.plugins.Check", ""]
        ],
        "absent": [
            [
                "absent",
                "error",
                "check 'absent' of plugin 'look' cannot be used: look_plugin_targets has no 'absent'",
                "",
            ]
        ],
    }


def test_plugins_are_loaded_once_however_many_threads_ask(shelf: Any) -> None:
    shelf.plant(
        "slow",
        """
        import builtins, time
        from llamatelemetry.plugins import hookimpl
        time.sleep(0.05)

        @hookimpl
        def register_backends():
            builtins.calls = getattr(builtins, "calls", 0) + 1
        """,
    )
    code = """
        import builtins, threading
        from llamatelemetry.plugins import load_plugins as load
        found = []
        threads = [threading.Thread(target=lambda: found.append(load())) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        answer = [len(found), len(set(map(id, found))), builtins.calls]
    """
    done = shelf.run(
        "-c", "import json\n" + "\n".join(line[8:] for line in code.splitlines()) + "print(json.dumps(answer))"
    )
    assert done.stdout == "[8, 1, 1]\n", done.stderr


def test_a_plugin_may_ask_for_plugins_while_it_is_imported(shelf: Any) -> None:
    shelf.plant(
        "curious",
        """
        from llamatelemetry.plugins import hookimpl, load_plugins
        load_plugins()

        @hookimpl
        def register_backends(registry):
            registry.add("curious", "curious_plugin_targets:Backend")
        """,
    )
    assert shelf.plugins()["reports"]["curious"]["state"] == "loaded"


def test_a_wrong_variable_elsewhere_does_not_stop_plugins(shelf: Any) -> None:
    shelf.plant("good")
    said = shelf.plugins({"OTEL_TRACES_SAMPLER": "sometimes", "LLAMATELEMETRY_PLUGINS": "good"})
    assert said["reports"]["good"]["state"] == "loaded"
    assert said["reports"]["llamacpp"]["state"] == "disabled"


def test_lists_given_as_settings_count_instead_of_the_environment() -> None:
    settings = Settings(plugins=("nobody",))
    plugins = load_plugins(settings)
    assert {report.state for report in plugins.reports} == {"disabled"}
    assert plugins.backends.names == ("echo",)
    assert load_plugins(Settings(plugins=("nobody",))) is plugins
    assert load_plugins() is not plugins


def test_a_broken_plugin_is_logged_as_a_warning(shelf: Any) -> None:
    shelf.plant("broken", "raise ValueError('torn')")
    done = shelf.run("-c", "from llamatelemetry.plugins import load_plugins; load_plugins()")
    assert done.stderr == "plugin broken (broken-plugin 1.0): import of broken_plugin raised ValueError: torn\n"
