"""What the telemetry of a test has told so far, read back from its files and checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llamatelemetry.sdk import flush
from llamatelemetry.testing.emitted import EmittedSpan, spans_from_otlp_json
from llamatelemetry.testing.semconv import assert_valid_spans


class Telling:
    """The spans of a process whose ``init()`` was given a folder.

    Args:
        folder: That folder.

    Raises:
        AssertionError: From its methods: what was told breaks a table of names, or did not arrive.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def spans(self) -> tuple[EmittedSpan, ...]:
        """All of them, after the checker has seen them."""
        assert flush()
        lines = [line for path in sorted(self._folder.iterdir()) for line in path.read_text().splitlines()]
        found = spans_from_otlp_json(lines)
        assert_valid_spans(found, ("gen_ai", "llm"))
        return found

    def requests(self) -> Mapping[str, EmittedSpan]:
        """Inference spans by the request's name."""
        marked = [span for span in self.spans() if "llamatelemetry.request.id" in span.attributes]
        named = {str(span.attributes["llamatelemetry.request.id"]): span for span in marked}
        assert len(named) == len(marked), "a request has one span"
        return named
