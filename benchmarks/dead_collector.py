"""Seconds that exit takes when the collector does not answer: ours against the OTel SDK's own.

Run: python benchmarks/dead_collector.py [--json]

Each case is a fresh process that makes spans and ends. The collector either refuses connections or
accepts them and never answers.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager

from report import Row, report

SPANS = 600
BUDGET = "<= 2"

OURS = """
    import llamatelemetry as lt
    lt.init(otlp_endpoint={url!r}, service_name="bench")
    from opentelemetry import trace
    tracer = trace.get_tracer("bench")
    for _ in range({spans}):
        tracer.start_span("work").end()
"""

THEIRS = """
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint={url!r} + "/v1/traces")))
    trace.set_tracer_provider(provider)
    tracer = trace.get_tracer("bench")
    for _ in range({spans}):
        tracer.start_span("work").end()
"""


@contextmanager
def collector(*, hangs: bool) -> Iterator[str]:
    """The URL of a collector that is not there, or is there and silent."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if hangs:
            listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def exit_s(code: str, url: str) -> float:
    """Seconds from the last span to the end of the process."""
    script = textwrap.dedent(code).format(url=url, spans=SPANS) + "\nprint('ended', flush=True)\n"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != "ended":
            if process.poll() is not None:
                raise RuntimeError("the measured process failed")
        start = time.monotonic()
        process.wait()
        return time.monotonic() - start


def main() -> None:
    """Measures and prints."""
    rows = []
    for name, hangs in (("refuses", False), ("hangs", True)):
        with collector(hangs=hangs) as url:
            theirs = exit_s(THEIRS, url)
            rows.append(
                Row(name=f"exit, collector {name}", value=exit_s(OURS, url), unit="s", baseline=theirs, budget=BUDGET)
            )
    report(f"Exit with {SPANS} spans and a dead collector, against the OTel SDK", rows)


if __name__ == "__main__":
    main()
