from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import gguf
import psutil
import pytest

from llamatelemetry.errors import BackendStartError, InvalidValueError, ModelFileError
from llamatelemetry.llama.model_files import demo_model
from llamatelemetry.llama.runtime import Runtime, embedded_runtime
from llamatelemetry.llama.server import DEFAULT_CONTEXT, LlamaServer

STAND_IN = """#!{python}
# Takes llama-server's flags and serves with the real llama.cpp of the embedded runtime.
import sys, xllamacpp
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
params = xllamacpp.CommonParams()
params.model.path = flags["--model"]
params.model_alias = {{flags["--alias"]}}
params.hostnames = [flags["--host"]]
params.port = int(flags["--port"])
params.n_ctx = int(flags["--ctx-size"])
params.n_parallel = int(flags["--parallel"])
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(flags["--threads"])
server = xllamacpp.Server(params)
import signal
signal.pause()
"""


def small(model: Path | str, **options) -> LlamaServer:
    return LlamaServer(model, **{"slots": 1, "context_length": 256, "threads": 1, **options})


def program(path: Path, text: str) -> Runtime:
    path.write_text(text)
    path.chmod(0o755)
    return Runtime(kind="binary", location=str(path), origin="LLAMA_SERVER_BIN")


def get(url: str):
    with urllib.request.urlopen(url, timeout=10) as reply:
        return json.load(reply)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_it_serves_between_start_and_stop(model_path):
    server = small(model_path, slots=2)
    server.start()
    port = server.port
    assert server.running
    assert psutil.pid_exists(server.pid)
    props = get(f"{server.url}/props")
    assert props["total_slots"] == 2
    assert props["default_generation_settings"]["n_ctx"] == 256
    assert props["model_alias"] == server.name == "SmolLM2-135M-Instruct"
    assert server.cold_start_s > 0
    assert any("model loaded" in line for line in server.log_tail)
    assert not any("llamatelemetry-ready" in line for line in server.log_tail)
    server.stop()
    assert not server.running
    assert server.pid is None
    assert server.exit_reason() is None
    assert not listens(port)


def test_starting_twice_is_one_server_and_stopping_twice_is_harmless(model_path):
    server = small(model_path)
    pid = server.start().pid
    assert server.start().pid == pid
    server.stop()
    server.stop()
    assert not psutil.pid_exists(pid)


def test_stopping_what_never_started_is_harmless(model_path):
    server = small(model_path)
    server.stop()
    with pytest.raises(BackendStartError, match="start"):
        _ = server.url


def test_it_can_be_started_again_after_a_stop(model_path):
    server = small(model_path)
    for _ in range(2):
        with server:
            assert get(f"{server.url}/health") == {"status": "ok"}


def test_it_listens_on_the_port_it_was_given_and_on_loopback_alone(model_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with small(model_path, port=port) as server:
        assert server.url == f"http://127.0.0.1:{port}"
        bound = [item.laddr.ip for item in psutil.Process(server.pid).net_connections() if item.status == "LISTEN"]
        assert bound == ["127.0.0.1"]


def test_the_context_is_bounded_unless_it_is_asked_for(model_path):
    with small(model_path, context_length=None) as server:
        assert get(f"{server.url}/props")["default_generation_settings"]["n_ctx"] == DEFAULT_CONTEXT


def test_it_outlives_the_thread_that_started_it(model_path):
    server = small(model_path)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    try:
        assert get(f"{server.url}/health") == {"status": "ok"}
    finally:
        server.stop()


def test_its_start_can_be_watched(model_path):
    seen: list[tuple[float, str]] = []
    with small(model_path, on_progress=lambda elapsed_s, line: seen.append((elapsed_s, line))):
        pass
    times = [elapsed_s for elapsed_s, _ in seen]
    assert times == sorted(times)
    assert any("load" in line for _, line in seen)


def test_its_whole_log_goes_to_a_file(model_path, tmp_path):
    path = tmp_path / "server.log"
    with small(model_path, log_file=path):
        pass
    assert "model loaded" in path.read_text()


def test_a_log_file_that_cannot_be_written_is_a_failed_start(model_path, tmp_path):
    server = small(model_path, log_file=tmp_path / "no" / "such" / "folder")
    with pytest.raises(BackendStartError, match="folder"):
        server.start()
    assert not server.running


def test_a_server_that_nobody_holds_any_more_is_stopped(model_path):
    server = small(model_path).start()
    process = psutil.Process(server.pid)
    del server
    gc.collect()
    assert not process.is_running()


@pytest.mark.parametrize("field", ["slots", "context_length", "threads"])
def test_numbers_below_one_are_refused(model_path, field):
    with pytest.raises(InvalidValueError, match=field):
        LlamaServer(model_path, **{field: 0})


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_what_is_no_port_is_refused(model_path, port):
    with pytest.raises(InvalidValueError, match="port"):
        LlamaServer(model_path, port=port)


def test_a_stop_from_another_thread_ends_a_start(model_path, tmp_path):
    runtime = program(tmp_path / "llama-server", "#!/bin/sh\necho loading weights\nexec sleep 60\n")
    stopping: list[threading.Thread] = []

    def stop_once(_elapsed_s: float, line: str) -> None:
        if line and not stopping:
            stopping.append(threading.Thread(target=server.stop))
            stopping[0].start()

    server = small(model_path, runtime=runtime, on_progress=stop_once)
    with pytest.raises(BackendStartError, match="SIGTERM"):
        server.start()
    stopping[0].join(20)
    assert not server.running


def test_a_running_server_is_not_ours_to_start(model_path):
    url = Runtime(kind="url", location="http://127.0.0.1:1", origin="server_url")
    with pytest.raises(InvalidValueError, match="runtime"):
        small(model_path, runtime=url).start()


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(ModelFileError, match=r"gone\.gguf"):
        small(tmp_path / "gone.gguf").start()


def test_what_is_not_gguf_is_no_model(tmp_path):
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"PK\x03\x04" * 100)
    with pytest.raises(ModelFileError, match=r"bad\.gguf"):
        small(path).start()


def test_a_truncated_model_is_refused_before_a_server_starts(model_path, tmp_path):
    path = tmp_path / "half.gguf"
    with model_path.open("rb") as file:
        path.write_bytes(file.read(50_000_000))
    server = small(path)
    with pytest.raises(ModelFileError, match=r"half\.gguf"):
        server.start()
    assert server.log_tail == ()


def test_a_model_that_llama_cpp_refuses_is_explained_by_its_log(model_path, tmp_path):
    path = tmp_path / "strange.gguf"
    # Whole and well-formed, of an architecture that does not exist.
    path.write_bytes(model_path.read_bytes().replace(b"llama", b"lxama", 1).replace(b"llama.", b"lxama."))
    server = small(path)
    with pytest.raises(BackendStartError, match="unknown model architecture") as caught:
        server.start()
    assert any("lxama" in line for line in caught.value.log_tail)
    assert "Traceback" not in str(caught.value)
    assert not server.running


def test_a_taken_port_is_named_before_anything_starts(model_path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        server = small(model_path, port=port)
        with pytest.raises(BackendStartError, match=f"port {port}"):
            server.start()
    assert server.log_tail == ()


def test_two_servers_never_share_a_port(model_path):
    with small(model_path) as first:
        second = small(model_path, port=first.port)
        with pytest.raises(BackendStartError, match=str(first.port)):
            second.start()
        assert get(f"{first.url}/health") == {"status": "ok"}


def test_a_crash_is_noticed_and_explained(model_path):
    with small(model_path) as server:
        os.kill(server.pid, signal.SIGSEGV)
        assert "SIGSEGV" in server.exit_reason(wait_s=10)
        assert not server.running


def test_an_executable_is_started_with_flags_and_polled_until_it_serves(model_path, tmp_path):
    runtime = program(tmp_path / "llama-server", STAND_IN.format(python=sys.executable))
    with small(model_path, runtime=runtime, slots=2) as server:
        assert get(f"{server.url}/props")["total_slots"] == 2
        pid = server.pid
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("kind", ["binary", "embedded"])
def test_a_server_sees_the_gpus_it_was_given(model_path, tmp_path, kind):
    binary = program(tmp_path / "llama-server", STAND_IN.format(python=sys.executable))
    with small(model_path, runtime=binary if kind == "binary" else None, gpus=[1]) as server:
        assert psutil.Process(server.pid).environ()["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.parametrize(
    ("pooling", "told", "not_told"),
    [
        (None, "--pooling last", "--ubatch-size"),
        (gguf.PoolingType.LAST, "--embeddings", "--ubatch-size"),
        (gguf.PoolingType.MEAN, "--batch-size 256 --ubatch-size 256", "--pooling"),
    ],
)
def test_an_executable_is_told_how_to_make_embeddings(tmp_path, pooling, told, not_told):
    model = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(model, "bert")
    if pooling is not None:
        writer.add_pooling_type(pooling)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    runtime = program(tmp_path / "llama-server", '#!/bin/sh\necho "$@"\nexit 3\n')
    with pytest.raises(BackendStartError) as caught:
        small(model, runtime=runtime, embeddings=True).start()
    (flags,) = caught.value.log_tail
    assert "--embeddings" in flags
    assert told in flags
    assert not_told not in flags


def test_an_executable_that_crashes_at_start_is_explained_at_once(model_path, tmp_path):
    runtime = program(tmp_path / "llama-server", "#!/bin/sh\necho loading weights\nkill -ILL $$\n")
    with pytest.raises(BackendStartError, match="avx2") as caught:
        small(model_path, runtime=runtime).start()
    assert caught.value.log_tail == ("loading weights",)


def test_an_executable_for_another_machine_is_explained(model_path, tmp_path):
    runtime = program(tmp_path / "llama-server", "\x7fELF")
    with pytest.raises(BackendStartError, match="LLAMA_SERVER_BIN"):
        small(model_path, runtime=runtime).start()


def test_a_start_that_takes_too_long_is_given_up(model_path, tmp_path):
    runtime = program(tmp_path / "llama-server", "#!/bin/sh\necho loading weights\nexec sleep 60\n")
    server = small(model_path, runtime=runtime, startup_timeout_s=0.5)
    with pytest.raises(BackendStartError, match="startup_timeout_s") as caught:
        server.start()
    assert caught.value.log_tail == ("loading weights",)
    assert not server.running


def test_a_free_port_that_was_lost_in_between_is_found_anew(model_path, tmp_path):
    first_time = tmp_path / "lost"
    text = STAND_IN.format(python=sys.executable).replace(
        "import sys, xllamacpp",
        "import os, pathlib, sys, xllamacpp\n"
        f"if not os.path.exists({str(first_time)!r}):\n"
        f"    pathlib.Path({str(first_time)!r}).touch()\n"
        "    sys.exit('couldn\\'t bind HTTP server socket, hostname: 127.0.0.1')",
    )
    with small(model_path, runtime=program(tmp_path / "llama-server", text)) as server:
        assert first_time.exists()
        assert get(f"{server.url}/health") == {"status": "ok"}


def test_a_port_that_is_lost_every_time_is_an_error(model_path, tmp_path):
    text = "#!/bin/sh\necho couldn\\'t bind HTTP server socket, hostname: 127.0.0.1, port: 1\nexit 1\n"
    runtime = program(tmp_path / "llama-server", text)
    with pytest.raises(BackendStartError, match="bind"):
        small(model_path, runtime=runtime).start()


@pytest.mark.parametrize("kind", ["embedded", "binary"])
def test_it_is_gone_when_its_parent_is_killed(kind, tmp_path, wait_gone):
    runtime = program(tmp_path / "llama-server", STAND_IN.format(python=sys.executable))
    code = (
        "import sys, time\n"
        "from llamatelemetry.llama.server import LlamaServer\n"
        "from llamatelemetry.llama.runtime import Runtime, embedded_runtime\n"
        "binary = Runtime(kind='binary', location=sys.argv[2], origin='PATH')\n"
        "runtime = binary if sys.argv[3] == 'binary' else embedded_runtime()\n"
        "server = LlamaServer(sys.argv[1], runtime=runtime, slots=1, context_length=256, threads=1)\n"
        "print(server.start().pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    arguments = [sys.executable, "-c", code, str(demo_model()), runtime.location, kind]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        process = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
    wait_gone(process)


def test_it_is_gone_when_its_parent_forgets_to_stop_it(wait_gone):
    code = (
        "import sys\n"
        "from llamatelemetry.llama.server import LlamaServer\n"
        "print(LlamaServer(sys.argv[1], slots=1, context_length=256, threads=1).start().pid, flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(demo_model())], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    assert not psutil.pid_exists(int(done.stdout))


def test_an_interrupt_while_it_starts_leaves_nothing(model_path):
    def interrupt(elapsed_s: float, _line: str) -> None:
        if elapsed_s > 0.1:
            raise KeyboardInterrupt

    server = small(model_path, on_progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        server.start()
    assert not server.running


SPANS = """
import json, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from llamatelemetry.llama.server import LlamaServer

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
server = LlamaServer(sys.argv[1], slots=1, context_length=256, threads=1)
with trace.get_tracer("test").start_as_current_span("caller"):
    try:
        server.start()
    except Exception:
        pass
start, caller = exporter.get_finished_spans()
print(json.dumps({
    "name": start.name,
    "attributes": dict(start.attributes),
    "status": start.status.status_code.name,
    "has_parent": start.parent.span_id == caller.context.span_id,
    "duration_s": (start.end_time - start.start_time) / 1e9,
    "cold_start_s": server.cold_start_s,
    "port": server.port,
    "pid": server.pid,
}))
server.stop()
"""


def span_of_start(model: Path) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", SPANS, str(model)], capture_output=True, text=True, timeout=60, check=True
    )
    return json.loads(done.stdout)


def test_a_start_is_a_span_of_the_callers_trace(model_path):
    span = span_of_start(model_path)
    assert span["name"] == "llama-server start"
    assert span["has_parent"]
    assert span["status"] == "UNSET"
    assert 0 < span["duration_s"] < span["cold_start_s"] + 1
    assert span["attributes"] == {
        "llamatelemetry.server.runtime": "xllamacpp",
        "llamatelemetry.server.version": embedded_runtime().version,
        "llamatelemetry.server.model": "SmolLM2-135M-Instruct",
        "llamatelemetry.server.slots": 1,
        "llamatelemetry.server.context_length": 256,
        "llamatelemetry.server.threads": 1,
        "process.pid": span["pid"],
        "server.address": "127.0.0.1",
        "server.port": span["port"],
    }


def test_a_failed_start_is_a_failed_span(model_path, tmp_path):
    path = tmp_path / "strange.gguf"
    path.write_bytes(model_path.read_bytes().replace(b"llama", b"lxama", 1).replace(b"llama.", b"lxama."))
    span = span_of_start(path)
    assert span["status"] == "ERROR"
    assert span["attributes"]["error.type"] == "BackendStartError"
    assert "server.port" not in span["attributes"]
