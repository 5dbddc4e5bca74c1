from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.config import READ_ELSEWHERE, VARIABLES, Settings, beside_providers, resolve_settings
from llamatelemetry.errors import ConfigurationError


def test_without_anything_given_telemetry_goes_to_files() -> None:
    settings = resolve_settings({}, {})
    assert settings == Settings()
    assert settings.traces_exporters == settings.metrics_exporters == settings.logs_exporters == ("file",)


def test_an_endpoint_sends_every_signal_there() -> None:
    settings = resolve_settings({"otlp_endpoint": "http://127.0.0.1:4318/"}, {})
    assert settings.otlp_endpoint == "http://127.0.0.1:4318"
    assert settings.traces_exporters == settings.metrics_exporters == settings.logs_exporters == ("otlp",)


def test_an_exporter_that_was_chosen_stays_chosen_beside_an_endpoint() -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_METRICS_EXPORTER": "prometheus"}
    settings = resolve_settings({}, environ)
    assert settings.metrics_exporters == ("prometheus",)
    assert settings.traces_exporters == ("otlp",)


def test_a_signal_with_an_endpoint_of_its_own_goes_there_and_the_others_to_files() -> None:
    settings = resolve_settings({}, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/in/traces"})
    assert settings.traces_exporters == ("otlp",)
    assert settings.metrics_exporters == ("file",)
    assert settings.otlp_traces_endpoint == "http://127.0.0.1:4318/in/traces"


def test_otlp_chosen_without_an_endpoint_is_the_standards_own_and_the_other_signals_go_to_files() -> None:
    settings = resolve_settings({}, {"OTEL_TRACES_EXPORTER": "otlp"})
    assert settings.traces_exporters == ("otlp",)
    assert settings.otlp_endpoint is None
    assert settings.metrics_exporters == settings.logs_exporters == ("file",)


def test_arguments_win_over_the_environment_and_it_over_defaults() -> None:
    environ = {"OTEL_SERVICE_NAME": "from-environment", "LLAMATELEMETRY_SEMCONV": "llm"}
    settings = resolve_settings({"service_name": "from-argument", "semconv": None}, environ)
    assert settings.service_name == "from-argument"
    assert settings.semconv == ("llm",)
    assert settings.sampler == "parentbased_always_on"


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("OTEL_SDK_DISABLED", "true", "disabled", True),
        ("OTEL_EXPORTER_OTLP_HEADERS", "Api-Key=a%20b, x=1", "otlp_headers", {"api-key": "a b", "x": "1"}),
        ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "a=1", "otlp_logs_headers", {"a": "1"}),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc", "otlp_metrics_protocol", "grpc"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "5000", "metric_interval_s", 5.0),
        ("OTEL_BSP_SCHEDULE_DELAY", "200", "span_delay_s", 0.2),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100", "span_queue_size", 100),
        ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "7", "log_batch_size", 7),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio", "sampler", "parentbased_ratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.25", "sampler_arg", 0.25),
        ("OTEL_TRACES_EXPORTER", "file, console,file", "traces_exporters", ("file", "console")),
        ("LLAMATELEMETRY_SEMCONV", "gen_ai,llm,gen_ai", "semconv", ("gen_ai", "llm")),
        ("LLAMATELEMETRY_DIR", "/somewhere", "telemetry_dir", Path("/somewhere")),
        ("LLAMATELEMETRY_PLUGINS", "a,b", "plugins", ("a", "b")),
        ("LLAMATELEMETRY_FILE_MAX_COUNT", "3", "file_max_count", 3),
    ],
)
def test_a_variable_fills_its_setting(name: str, text: str, field: str, value: Any) -> None:
    assert getattr(resolve_settings({}, {name: text}), field) == value


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "otlp, file, console"),
        ("OTEL_TRACES_EXPORTER", "none,file", "stands alone"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "http/protobuf, grpc"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "whole number from 1"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "soon", "give a number"),
        ("OTEL_TRACES_EXPORTER", "prometheus", "metrics only"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317", "http://127.0.0.1:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "http/protobuf, grpc"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "novalue", "key=value"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "70000", "0 to 65535"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "soon", "give a number"),
        ("OTEL_SDK_DISABLED", "yes", "true or false"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "always_on"),
        ("LLAMATELEMETRY_SEMCONV", "genai", "gen_ai, gen_ai_next, llm, openinference"),
        ("LLAMATELEMETRY_NO_SUCH_THING", "1", "LLAMATELEMETRY_SEMCONV"),
        ("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true", "NO_CONTENT"),
    ],
)
def test_a_malformed_variable_is_one_error_that_names_it_its_value_and_the_choices(
    name: str, text: str, said: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve_settings({}, {name: text})
    assert said in str(caught.value)
    assert caught.value.field.upper() in name or caught.value.field.endswith("_exporters")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"no_such_setting": 1}, "no_such_setting"),
        ({"semconv": ["genai"]}, "semconv"),
        ({"sampler": "ratio", "sampler_arg": 2.0}, "sampler_arg"),
        ({"otlp_endpoint": "ftp://x"}, "otlp_endpoint"),
        ({"prometheus_port": -1}, "prometheus_port"),
        ({"shutdown_timeout_s": 0}, "shutdown_timeout_s"),
        ({"redact_patterns": ["("]}, "redact_patterns"),
    ],
)
def test_arguments_follow_the_same_rules_as_variables(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve_settings(arguments, {})
    assert caught.value.field == field


def test_headers_which_hold_keys_are_in_no_error_and_no_representation() -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve_settings({}, {"OTEL_EXPORTER_OTLP_HEADERS": "authorization: Bearer hunter2"})
    assert "OTEL_EXPORTER_OTLP_HEADERS" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    for wrong in ("api-key=hunter2", {"api-key": b"hunter2"}):
        with pytest.raises(ConfigurationError, match="give a mapping of names to text") as caught:
            resolve_settings({"otlp_headers": wrong}, {})
        assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(resolve_settings({"otlp_headers": {"api-key": "hunter2"}}, {}))


def test_one_pattern_may_be_given_alone() -> None:
    assert resolve_settings({"redact_patterns": "EMP-?"}, {}).redact_patterns == ("EMP-?",)


def test_what_is_wrong_in_an_environment_that_says_to_do_nothing_keeps_nobody_from_it() -> None:
    wrong = {
        "OTEL_TRACES_EXPORTER": "zipkin",
        "OTEL_METRICS_EXPORTER": "none,file",
        "LLAMATELEMETRY_NO_SUCH_THING": "1",
    }
    assert resolve_settings({}, {**wrong, "OTEL_SDK_DISABLED": "true"}).disabled


def test_every_variable_fills_a_setting_that_exists_and_none_is_filled_twice() -> None:
    fields = {field.name for field in dataclasses.fields(Settings)}
    filled = [variable.field for variable in VARIABLES]
    assert set(filled) <= fields
    assert len(set(filled)) == len(filled)


@given(st.sampled_from([variable.name for variable in VARIABLES]), st.text(max_size=40))
def test_any_text_is_either_understood_or_one_typed_error(name: str, text: str) -> None:
    try:
        settings = resolve_settings({}, {name: text})
    except ConfigurationError:
        return
    assert isinstance(settings, Settings)


@pytest.mark.parametrize("name", READ_ELSEWHERE)
def test_a_variable_that_is_read_elsewhere_is_no_unknown_one(name: str) -> None:
    assert resolve_settings({}, {name: "anything"}) == Settings()


@pytest.mark.parametrize("text", ["ftp://ada:hunter2@there", "ada:hunter2@there:4318", "http://ada:hunt/er2@there"])
def test_a_password_in_an_endpoint_that_is_no_good_is_in_no_error(text: str) -> None:
    for arguments, environ in (({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": text}), ({"otlp_endpoint": text}, {})):
        with pytest.raises(ConfigurationError, match="there") as raised:
            resolve_settings(arguments, environ)
        assert "hunt" not in str(raised.value)


def test_the_capture_of_content_is_read_in_any_case_as_others_read_it() -> None:
    name = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
    assert resolve_settings({}, {name: "span_only"}).capture_content == "SPAN_ONLY"


def test_beside_providers_of_others_only_what_is_ours_to_say_is_read() -> None:
    environ = {
        "OTEL_TRACES_EXPORTER": "otlp_proto_http",
        "OTEL_TRACES_SAMPLER_ARG": "endpoint=http://there",
        "OTEL_SDK_DISABLED": "true",
        "LLAMATELEMETRY_SEMCONV": "gen_ai",
    }
    settings = resolve_settings({}, beside_providers(environ))
    assert (settings.traces_exporters, settings.disabled, settings.semconv) == (("file",), True, ("gen_ai",))
