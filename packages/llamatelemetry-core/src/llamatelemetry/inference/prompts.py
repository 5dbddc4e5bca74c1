"""Token ids of requests, so that prompts can be compared and sized before a backend sees them.

A backend's tokenizer may be a call over the network, so each text is asked for once: a
conversation's earlier messages and a shared system prompt are known already when the next request
brings them again. What a chat template adds around them is learnt from the counts that the backend
reports. The result is an estimate, and said to be one.
"""

from __future__ import annotations

import json
import sys
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.inference.tokens import PackedTokens, count_tokens, pack_tokens

CACHED_BYTES: Final = 64 * 2**20
"""Memory that texts and their tokens may take; past it those longest unused are forgotten."""

_ENTRY_BYTES: Final = 160
"""What a dictionary that keeps an order takes for one entry, beside its key and its value."""

_FIRST_OVERHEAD: Final = 5.0
"""Tokens that ChatML puts around a message: two markers, the role and two line ends."""

_LEARNING_RATE: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What is known of a prompt before it runs.

    Attributes:
        tokens: Ids that tell equal prefixes from different ones; None where no tokenizer answers.
        content: Tokens of its texts alone.
        count: Tokens it should take, at least 1; only a lower bound where no tokenizer answers.
    """

    tokens: PackedTokens | None
    content: int
    count: int


_UNKNOWN: Final = Prompt(tokens=None, content=0, count=1)


class PromptTokenizer:
    """Tokenizes requests piece by piece, each text once. Thread-safe.

    Args:
        tokenize: The backend's tokenizer; None says that it has none.
        cached_bytes: Memory that what is remembered may take, in bytes.
    """

    def __init__(self, tokenize: Callable[[str], Sequence[int] | None], *, cached_bytes: int = CACHED_BYTES) -> None:
        self._tokenize = tokenize
        self._cached_bytes = cached_bytes
        self._texts: OrderedDict[str, PackedTokens] = OrderedDict()
        self._bytes = 0
        self._overhead = _FIRST_OVERHEAD
        self._lock = threading.Lock()

    def prompt_of(self, request: InferenceRequest) -> Prompt:
        """Tokens of a request's prompt and how many there should be."""
        return self._prompt(request, self._tokens_of)

    def _prompt(self, request: InferenceRequest, tokens_of: Callable[[str], PackedTokens | None]) -> Prompt:
        packed: list[bytes] = []
        pieces = 0
        try:
            for marker, text in _pieces(request):
                tokens = tokens_of(text)
                if tokens is None:
                    return _UNKNOWN
                packed += [marker, tokens]
                pieces += 1
        except (TypeError, ValueError, RecursionError):
            # What is no JSON is for the backend to refuse.
            return _UNKNOWN
        joined = PackedTokens(b"".join(packed))
        content = count_tokens(joined) - pieces
        count = max(1, content + round(self._overhead_of(request, pieces)))
        return Prompt(tokens=joined, content=content, count=count)

    def learn(self, request: InferenceRequest, reported: int) -> None:
        """Takes from a backend's count how much its template adds to a message. The backend is asked nothing.

        Args:
            request: A request that ran; nothing is learnt from it once its texts are forgotten.
            reported: Its prompt tokens, as the backend counted them.
        """
        if request.messages is None or request.tools:
            return
        pieces = len(request.messages)
        prompt = self._prompt(request, self._known_tokens_of)
        if prompt.tokens is None:
            return
        with self._lock:
            self._overhead += _LEARNING_RATE * ((reported - prompt.content) / pieces - self._overhead)

    def _overhead_of(self, request: InferenceRequest, pieces: int) -> float:
        return 1.0 if request.messages is None else self._overhead * pieces

    def _known_tokens_of(self, text: str) -> PackedTokens | None:
        with self._lock:
            known = self._texts.get(text)
            if known is not None:
                self._texts.move_to_end(text)
            return known

    def _tokens_of(self, text: str) -> PackedTokens | None:
        known = self._known_tokens_of(text)
        if known is not None:
            return known
        try:
            ids = self._tokenize(text) if text else ()
            tokens = None if ids is None else pack_tokens(ids)
        except Exception:  # noqa: BLE001 - an estimate must not fail a request, which will meet the same trouble itself
            return None
        if tokens is None:
            return None
        with self._lock:
            if text not in self._texts:
                self._bytes += _weight(text, tokens)
            self._texts[text] = tokens
            while self._bytes > self._cached_bytes and self._texts:
                self._bytes -= _weight(*self._texts.popitem(last=False))
        return tokens


def _weight(text: str, tokens: PackedTokens) -> int:
    return sys.getsizeof(text) + sys.getsizeof(tokens) + _ENTRY_BYTES


def _pieces(request: InferenceRequest) -> Iterator[tuple[bytes, str]]:
    """The texts of a prompt, each after a marker that no text has: who says it, or what comes before all."""
    if request.tools or request.response_format:
        shape = json.dumps([request.tools, request.response_format], sort_keys=True, default=str)
        yield _marker("shape", shape), ""
    if request.messages is None:
        for text in request.input or (request.prompt or "",):
            yield _marker("prompt", ""), text
        return
    for message in request.messages:
        content = message.get("content")
        rest = {key: value for key, value in message.items() if key not in {"content", "role"}}
        yield _marker(message["role"], json.dumps(rest, sort_keys=True, default=str)), _text_of(content)


def _text_of(content: object) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, Sequence):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return str(content)


def _marker(kind: str, detail: str) -> bytes:
    # Negative, as no tokenizer's ids are.
    return pack_tokens([-1 - (zlib.crc32(f"{kind}\0{detail}".encode()) & 0x3FFFFFFF)])
