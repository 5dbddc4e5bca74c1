"""What every backend owes the engine, stated as tests.

Subclass :class:`BackendContract` in a test module, say how to make the backend, and a test runner
collects the rest::

    class TestMyBackend(BackendContract):
        def make_backend(self) -> Backend:
            return MyBackend(...)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from llamatelemetry.backends.protocol import Backend, CancelToken, Placement, StreamEnd, TokenDelta
from llamatelemetry.backends.request import InferenceRequest, SamplingParams
from llamatelemetry.errors import BackendError, LlamatelemetryError, NotSupportedError


class BackendContract:
    """The contract. Every test makes a backend of its own and leaves it closed.

    Override :meth:`make_backend`; override the attributes where the model needs other words.

    Attributes:
        prompt: A prompt that takes at least eight tokens to answer.
        timeout_s: Most seconds that anything here may take.
    """

    prompt: str = "Name the seven days of the week and then the twelve months."
    timeout_s: float = 60.0

    def make_backend(self) -> Backend:
        """Returns a new, unopened backend."""
        raise NotImplementedError("say how to make the backend under test")

    @contextmanager
    def opened(self) -> Iterator[Backend]:
        """An open backend, closed on the way out."""
        backend = self.make_backend()
        try:
            backend.open()
            yield backend
        finally:
            backend.close()

    def request(self, max_tokens: int | None = 8) -> InferenceRequest:
        """A chat request whose answer is repeatable."""
        return InferenceRequest(
            messages=[{"role": "user", "content": self.prompt}],
            max_tokens=max_tokens,
            sampling=SamplingParams(temperature=0.0),
            seed=7,
        )

    def test_it_is_a_backend(self) -> None:
        """It has the protocol's methods."""
        assert isinstance(self.make_backend(), Backend)

    def test_opening_twice_gives_the_same_facts(self) -> None:
        """``open`` describes the model and has no second effect."""
        with self.opened() as backend:
            info = backend.open()
            assert info == backend.open()
            assert info.model
            assert info.provider
            assert info.slots >= 1

    def test_deltas_come_first_and_one_end_comes_last(self) -> None:
        """A stream is deltas, then exactly one end, then nothing."""
        with self.opened() as backend:
            items = list(backend.stream(self.request(), Placement()))
        assert isinstance(items[-1], StreamEnd)
        assert all(isinstance(item, TokenDelta) for item in items[:-1])
        assert "".join(item.text for item in items[:-1] if isinstance(item, TokenDelta)).strip()

    def test_max_tokens_bounds_the_answer_and_says_so(self) -> None:
        """An answer cut short ends with ``length`` and counts the tokens it has."""
        with self.opened() as backend:
            _, end = _drain(backend, self.request(max_tokens=3))
        assert end.finish_reason == "length"
        assert end.usage.output_tokens == 3

    def test_usage_counts_the_whole_prompt(self) -> None:
        """Input tokens include cached ones and equal the backend's own count, if it has one."""
        with self.opened() as backend:
            request = self.request()
            _, end = _drain(backend, request)
            counted = backend.count_prompt_tokens(request)
            assert end.usage.input_tokens
            assert counted in {None, end.usage.input_tokens}
            _, again = _drain(backend, request)
            assert again.usage.input_tokens == end.usage.input_tokens
            assert (again.usage.cached_tokens or 0) <= end.usage.input_tokens

    def test_text_is_tokenized_the_same_each_time_and_token_by_token(self) -> None:
        """Ids are stable, a longer text has more of them, and they are not characters."""
        with self.opened() as backend:
            tokens = backend.tokenize(self.prompt)
            if tokens is None:
                return
            assert 0 < len(tokens) < len(self.prompt)
            assert list(tokens) == list(backend.tokenize(self.prompt) or ())
            assert len(backend.tokenize(self.prompt + " " + self.prompt) or ()) > len(tokens)

    def test_embeddings_are_given_or_clearly_refused(self) -> None:
        """One vector per text, all of one length; or one typed error that says it is not supported."""
        with self.opened() as backend:
            request = InferenceRequest(input=["one", "two words"])
            if not backend.open().embeddings:
                try:
                    list(backend.stream(request, Placement()))
                except NotSupportedError:
                    return
                raise AssertionError("a backend without embeddings must raise a NotSupportedError")
            deltas, end = _drain(backend, request)
            assert deltas == []
            assert len(end.embeddings) == 2
            assert len({len(vector) for vector in end.embeddings}) == 1

    def test_a_prompt_is_continued(self) -> None:
        """Plain text completion works beside chat."""
        with self.opened() as backend:
            greedy = SamplingParams(temperature=0.0)
            deltas, end = _drain(backend, InferenceRequest(prompt=self.prompt, max_tokens=4, sampling=greedy))
        assert deltas
        assert end.usage.output_tokens

    def test_a_cancelled_stream_ends_and_the_slot_serves_the_next_request(self) -> None:
        """After a cancel the stream ends by itself, and nothing of it is left in the way."""
        with self.opened() as backend:
            slots = backend.open().slots
            for _ in range(slots + 1):
                cancel = CancelToken()
                stream = backend.stream(self.request(max_tokens=64), Placement(cancel=cancel))
                assert isinstance(next(stream), TokenDelta)
                cancel.cancel()
                left = _rest_after_cancel(stream)
                assert left < 64
            _, end = _drain(backend, self.request(max_tokens=3))
        assert end.usage.output_tokens == 3

    def test_a_closed_generator_releases_its_slot(self) -> None:
        """The engine closes a stream in the middle, and the backend goes on serving."""
        with self.opened() as backend:
            for _ in range(backend.open().slots + 1):
                stream = backend.stream(self.request(max_tokens=64), Placement())
                assert isinstance(next(stream), TokenDelta)
                stream.close()  # type: ignore[attr-defined]  # backends yield from generators
            _, end = _drain(backend, self.request(max_tokens=3))
        assert end.usage.output_tokens == 3

    def test_every_slot_streams_at_once(self) -> None:
        """As many threads as slots stream side by side, each its own answer."""
        with self.opened() as backend:
            slots = backend.open().slots
            ends: list[StreamEnd] = []
            threads = [
                threading.Thread(target=lambda: ends.append(_drain(backend, self.request())[1])) for _ in range(slots)
            ]
            for thread in threads:
                thread.start()
            limit = time.monotonic() + self.timeout_s
            for thread in threads:
                thread.join(max(0.0, limit - time.monotonic()))
            assert len(ends) == slots
            ids = [end.response_id for end in ends if end.response_id is not None]
            assert len(set(ids)) == len(ids)

    def test_closing_twice_is_harmless_and_a_closed_backend_says_so(self) -> None:
        """``close`` is idempotent; streaming afterwards is one typed error."""
        backend = self.make_backend()
        backend.open()
        backend.close()
        backend.close()
        try:
            list(backend.stream(self.request(), Placement()))
        except BackendError:
            return
        raise AssertionError("a closed backend must raise a BackendError")


def _drain(backend: Backend, request: InferenceRequest) -> tuple[list[TokenDelta], StreamEnd]:
    deltas: list[TokenDelta] = []
    for item in backend.stream(request, Placement()):
        if isinstance(item, StreamEnd):
            return deltas, item
        deltas.append(item)
    raise AssertionError("the stream ended without a StreamEnd")


def _rest_after_cancel(stream: Iterator[TokenDelta | StreamEnd]) -> int:
    """Items a cancelled stream still yields; it may also end with a typed error."""
    left = 0
    try:
        for _ in stream:
            left += 1
    except LlamatelemetryError:
        pass
    return left
