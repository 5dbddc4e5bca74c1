"""``llamatelemetry doctor`` in a good environment and in bad ones."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pynvml import NVML_ERROR_LIB_RM_VERSION_MISMATCH

from llamatelemetry.cli.checks import check_settings
from llamatelemetry.config import Settings
from llamatelemetry.deployment.processes import ProcessRef
from llamatelemetry.deployment.record import Deployment
from llamatelemetry.deployment.state import DeploymentFolder, Ending
from llamatelemetry.otel.prometheus import PrometheusEndpoint
from llamatelemetry.testing.nvml_stub import LAPTOP, TESLA_T4_X2, NvmlStub

# What the llama.cpp plugin finds depends on the machine's CPU; its own tests judge that.
ALONE = {"LLAMATELEMETRY_DISABLED_PLUGINS": "llamacpp"}


def examined(shelf: Any, env: dict[str, str], code: int) -> dict[str, Any]:
    done = shelf.llamatelemetry("doctor", "--json", env={**ALONE, **env})
    assert (done.returncode, done.stderr) == (code, "")
    said: dict[str, Any] = json.loads(done.stdout)
    assert said["ok"] is (code == 0)
    return said | {"checks": {check["name"]: check for check in said["checks"]}}


@pytest.fixture
def listener() -> Iterator[int]:
    """The port of something that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def dead_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def test_a_good_environment_is_fine_and_nothing_is_made(shelf: Any) -> None:
    said = examined(shelf, {}, 0)
    assert (said["errors"], said["warnings"]) == (0, 0)
    checks = said["checks"]
    assert {"python", "llamatelemetry-core", "llamatelemetry-llamacpp", "OTel SDK", "[grpc]", "[prometheus]"} <= {
        *checks
    }
    assert checks["traces"]["detail"] == "file"
    assert checks["telemetry folder"]["detail"] == f"{shelf.folder}/llamatelemetry-data, will be made"
    assert checks["sampler"]["detail"] == "parentbased_always_on"
    assert checks["semconv"]["detail"] == "gen_ai, llm"
    assert list(shelf.folder.iterdir()) == []


def test_every_bad_variable_is_an_error_with_the_choices_and_the_rest_is_still_shown(shelf: Any) -> None:
    env = {
        "OTEL_TRACES_SAMPLER": "sometimes",
        "LLAMATELEMETRY_FILE_MAX_COUNT": "many",
        "LLAMATELEMETRY_SERVICE": "chat",
        "OTEL_SERVICE_NAME": "chat",
    }
    said = examined(shelf, env, 1)
    assert said["errors"] == 3
    assert said["checks"]["OTEL_TRACES_SAMPLER"]["state"] == "error"
    assert "'sometimes'" in said["checks"]["OTEL_TRACES_SAMPLER"]["detail"]
    assert said["checks"]["OTEL_TRACES_SAMPLER"]["fix"].startswith("choose one of always_on")
    assert said["checks"]["LLAMATELEMETRY_FILE_MAX_COUNT"]["fix"] == "give a whole number from 1 to 1000000"
    assert "no such variable" in said["checks"]["LLAMATELEMETRY_SERVICE"]["fix"]
    assert said["checks"]["service name"]["detail"] == "chat"


def test_variables_that_contradict_each_other_are_an_error(shelf: Any) -> None:
    said = examined(shelf, {"OTEL_TRACES_EXPORTER": "file,none"}, 1)
    assert said["checks"]["traces_exporters"]["fix"] == '"none" stands alone'


def test_otlp_without_an_endpoint_is_looked_for_where_it_would_be_sent(shelf: Any, dead_port: int) -> None:
    signals = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "otlp"}
    elsewhere = {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"http://127.0.0.1:{dead_port}"}
    said = json.loads(shelf.llamatelemetry("doctor", "--json", env={**ALONE, **signals, **elsewhere}).stdout)
    looked_at = [check["detail"].split()[0] for check in said["checks"] if check["name"] == "OTLP endpoint"]
    assert looked_at == ["http://localhost:4318", f"http://127.0.0.1:{dead_port}"]


def test_an_endpoint_that_answers_is_fine(shelf: Any, listener: int) -> None:
    endpoint = f"http://127.0.0.1:{listener}"
    said = examined(shelf, {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}, 0)
    assert said["checks"]["OTLP endpoint"]["detail"] == f"{endpoint} answers"
    assert said["checks"]["traces"]["detail"] == "otlp"
    assert "telemetry folder" not in said["checks"]


def test_an_endpoint_that_is_down_is_an_error_with_a_way_out(shelf: Any, dead_port: int) -> None:
    said = examined(shelf, {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{dead_port}"}, 1)
    check = said["checks"]["OTLP endpoint"]
    assert check["state"] == "error"
    assert "Connection refused" in check["detail"]
    assert "unset OTEL_EXPORTER_OTLP_ENDPOINT" in check["fix"]


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:port", "http://exa..mple"])
def test_an_endpoint_that_is_no_url_is_an_error(shelf: Any, endpoint: str) -> None:
    said = examined(shelf, {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}, 1)
    assert f"{endpoint!r} is not valid" in said["checks"]["OTEL_EXPORTER_OTLP_ENDPOINT"]["detail"]


def test_a_name_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answering = threading.Event()
    monkeypatch.setattr("llamatelemetry.cli.checks._ANSWER_TIMEOUT_S", 0.05)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answering.wait(10) and [])
    settings = Settings(otlp_endpoint="http://collector.example:4318", traces_exporters=("otlp",))
    endpoint = next(check for check in check_settings(settings) if check.name == "OTLP endpoint")
    answering.set()
    assert endpoint.detail == "http://collector.example:4318 does not answer: nothing came of it in 0.05 s"


def test_a_scrape_endpoint_may_be_at_an_address_of_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        # Many containers have none, and doctor can then look at no such address.
        pytest.skip("this machine has no IPv6")
    settings = Settings(prometheus_host="::1", prometheus_port=0, metrics_exporters=("prometheus",))
    [place] = [check for check in check_settings(settings) if check.name == "scrape endpoint"]
    assert place.detail == "http://[::1]:0/metrics"
    endpoint = PrometheusEndpoint("::1", 0)
    endpoint.close()


def test_a_folder_that_no_file_system_can_have_is_an_error(shelf: Any) -> None:
    said = examined(shelf, {"LLAMATELEMETRY_DIR": "a" * 5000}, 1)
    assert "File name too long" in said["checks"]["telemetry folder"]["detail"]


def test_a_telemetry_folder_that_is_a_file_is_an_error(shelf: Any) -> None:
    (shelf.folder / "data").write_text("")
    said = examined(shelf, {"LLAMATELEMETRY_DIR": "data/telemetry"}, 1)
    assert said["checks"]["telemetry folder"]["detail"] == f"{shelf.folder}/data is a file"


def test_a_scrape_port_that_is_taken_is_an_error(shelf: Any, listener: int) -> None:
    env = {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": str(listener)}
    said = examined(shelf, env, 1)
    assert "Address already in use" in said["checks"]["scrape endpoint"]["detail"]
    assert said["checks"]["prometheus"]["state"] == "ok"


def test_a_disabled_sdk_is_a_warning_and_no_error(shelf: Any) -> None:
    said = examined(shelf, {"OTEL_SDK_DISABLED": "true"}, 0)
    assert said["warnings"] == 1
    assert said["checks"]["telemetry"]["state"] == "warning"


def test_a_broken_plugin_is_an_error_and_a_disabled_one_is_not(shelf: Any) -> None:
    shelf.plant("torn", "raise ValueError('torn apart')")
    said = examined(shelf, {}, 1)
    assert "torn apart" in said["checks"]["torn"]["detail"]
    said = examined(shelf, {"LLAMATELEMETRY_DISABLED_PLUGINS": "torn,llamacpp"}, 0)
    assert "disabled" in said["checks"]["torn"]["detail"]


def test_hooks_that_init_would_call_are_tried(shelf: Any) -> None:
    shelf.plant(
        "late",
        """
        from llamatelemetry.plugins import hookimpl

        @hookimpl
        def configure(settings):
            raise OSError("no route")

        @hookimpl
        def detect_resource(settings):
            raise OSError("no route")
        """,
    )
    detail = examined(shelf, {}, 1)["checks"]["late"]["detail"]
    assert "hook configure raised OSError: no route" in detail
    assert "hook detect_resource raised OSError: no route" in detail


def test_a_listed_plugin_that_does_not_exist_is_a_warning(shelf: Any) -> None:
    said = examined(shelf, {"LLAMATELEMETRY_DISABLED_PLUGINS": "llamacpp,lamacpp"}, 0)
    check = said["checks"]["LLAMATELEMETRY_DISABLED_PLUGINS"]
    assert (check["state"], check["detail"]) == (
        "warning",
        "no plugin is named 'lamacpp'; installed: llamacpp, quantization, transformers, unsloth",
    )


def test_checks_of_plugins_have_their_own_section_and_count(shelf: Any) -> None:
    shelf.plant(
        "look",
        """
        from llamatelemetry.plugins import hookimpl

        @hookimpl
        def register_checks(registry):
            registry.add("lamps", "look_plugin_targets:lamps")
        """,
        targets="""
        from llamatelemetry.plugins import Check, CheckState

        def lamps():
            return [Check(name="lamp", state=CheckState.ERROR, detail="dark", fix="light it")]
        """,
    )
    lamp = examined(shelf, {}, 1)["checks"]["lamp"]
    assert lamp == {"section": "lamps", "name": "lamp", "state": "error", "detail": "dark", "fix": "light it"}
    text = shelf.llamatelemetry("doctor", env=ALONE).stdout
    lines = [line.rstrip() for line in text.splitlines()]
    at = lines.index("lamps")
    assert [*lines[at : at + 4], lines[-1]] == [
        "lamps",
        "  ✗  lamp  dark",
        "           fix: light it",
        "",
        "1 error, 0 warnings.",
    ]


def test_gpus_of_the_stub_are_shown_and_what_they_do_not_tell(shelf: Any, tmp_path: Path) -> None:
    with NvmlStub(LAPTOP, tmp_path) as stub:
        checks = examined(shelf, {**stub.environ}, 0)["checks"]
    assert checks["driver"]["section"] == "GPU"
    assert checks["driver"]["detail"] == "1 GPU can be read; driver 550.54.15, CUDA up to 12.4"
    assert checks["GPU 0"]["detail"].startswith("NVIDIA GeForce GTX 1060, 6.0 GiB, compute 6.1")
    assert "energy_mj (nvmlDeviceGetTotalEnergyConsumption is not supported" in checks["GPU 0 figures"]["detail"]


def test_a_stub_driver_of_another_version_than_its_kernel_module_is_an_error(shelf: Any, tmp_path: Path) -> None:
    with NvmlStub(TESLA_T4_X2, tmp_path) as stub:
        stub.fail("nvmlInitWithFlags", NVML_ERROR_LIB_RM_VERSION_MISMATCH)
        check = examined(shelf, {**stub.environ}, 1)["checks"]["driver"]
    assert check["state"] == "error"
    assert "different versions" in check["detail"]
    assert "reboot" in check["fix"]


@pytest.mark.parametrize("env", [{"COLUMNS": "60"}, {"COLUMNS": "60", "PYTHONIOENCODING": "ascii"}])
def test_sixty_columns_are_enough(shelf: Any, env: dict[str, str]) -> None:
    done = shelf.llamatelemetry("doctor", env={**ALONE, **env})
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 60
    assert done.stdout.endswith("Everything is fine.\n")
    assert "\x1b" not in done.stdout


def test_a_deployment_that_died_is_an_error_and_one_that_was_stopped_is_none(shelf: Any, tmp_path: Path) -> None:
    env = {"LLAMATELEMETRY_HOME": str(tmp_path / "home")}
    folder = DeploymentFolder("chat", tmp_path / "home")
    with folder.locked():
        folder.note(
            Deployment(
                name="chat",
                id="one",
                artifact=Path("/models/m.gguf"),
                sha256="a" * 64,
                standing="verified",
                model="m",
                url="http://127.0.0.1:1",
                port=1,
                supervisor=ProcessRef(pid=1, started="another boot:1"),
                log=Path("/logs/one.log"),
                started_ns=5,
            )
        )
    check = examined(shelf, env, 1)["checks"]["chat"]
    assert (check["section"], check["state"]) == ("Deployments", "error")
    assert "is dead: its supervisor, process 1, is gone" in check["detail"]
    assert "llamatelemetry deploy stop --name chat" in check["fix"]
    folder.note_end("one", Ending(reason="it was stopped", wanted=True, ended_ns=1))
    assert "chat" not in examined(shelf, env, 0)["checks"]
