from __future__ import annotations

from llamatelemetry.otel.delivery import Delivery, ShutdownReport

GOOD = Delivery(signal="traces", exporter="console", accepted=3, exported=3, lost=0)
BAD = Delivery(signal="traces", exporter="OTLP http://h", accepted=5, exported=1, lost=4)
LOGS = Delivery(signal="logs", exporter="files in x", accepted=2, exported=0, lost=2)


def test_a_report_without_losses_is_complete() -> None:
    report = ShutdownReport(deliveries=(GOOD,))
    assert report.complete
    assert report.problems() == []


def test_losses_are_summed_by_signal_and_told_by_exporter() -> None:
    report = ShutdownReport(deliveries=(GOOD, BAD, LOGS), records_lost=1, traces_evicted=6)
    assert (report.spans_lost, report.metric_exports_lost, report.log_records_lost) == (4, 0, 2)
    assert not report.complete
    assert report.problems() == [
        "4 of 5 spans to OTLP http://h",
        "2 of 2 log records to files in x",
        "1 finished requests that were not recorded in time",
        "6 traces that the tail sampler had no room to keep",
    ]
