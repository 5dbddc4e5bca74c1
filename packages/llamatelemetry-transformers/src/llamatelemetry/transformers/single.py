"""Plain ``generate``, one request at a time, for models that continuous batching does not cover."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Sequence
from typing import Any, Final

from llamatelemetry.backends.protocol import KVReport
from llamatelemetry.clock import SYSTEM_CLOCK
from llamatelemetry.errors import BackendError, BackendResponseError, LlamatelemetryError
from llamatelemetry.transformers.memory_errors import explained_out_of_memory
from llamatelemetry.transformers.runs import Task, TokenFeed
from llamatelemetry.transformers.sampling import draw, penalise

_JOIN_S: Final = 10.0
_LESS_CONTEXT: Final = "ask with a shorter prompt, or for fewer tokens"

_NEUTRAL: Final = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "repetition_penalty": 1.0,
    "max_length": None,
    "stop_strings": None,
    "max_time": None,
    "penalty_alpha": None,
    "prompt_lookup_num_tokens": None,
    "assistant_early_exit": None,
    "use_mtp": None,
    "token_healing": None,
    "return_dict_in_generate": False,
    "output_scores": False,
    "output_logits": False,
    "output_attentions": False,
    "output_hidden_states": False,
}
"""What of a model's generation configuration is done here, or not at all. The rest of it stays in force."""


class SingleGenerator:
    """Runs ``model.generate`` in threads, one at a time. Thread-safe.

    Args:
        model: A ``PreTrainedModel``.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._turn = threading.Lock()
        self._runs: set[SingleRun] = set()

    def run(self, task: Task) -> SingleRun:
        """Begins with a request, once the one before has ended. The thread has the caller's context."""
        run = SingleRun(self._model, task, self._turn, self._runs)
        run.begin()
        return run

    def close(self) -> None:
        """Ends what runs; idempotent."""
        runs = list(self._runs)
        for run in runs:
            run.stop(BackendError("the backend was closed while it generated"))
        for run in runs:
            run.join(_JOIN_S)


class SingleRun:
    """One request, in a thread of its own.

    Attributes:
        feed: Its tokens.
        cached_tokens: 0: every prompt is computed from its beginning.
        admission_wait_ms: Milliseconds until the one before had ended; None before.
    """

    cached_tokens: int = 0

    def __init__(self, model: Any, task: Task, turn: threading.Lock, runs: set[SingleRun]) -> None:
        self._model = model
        self._task = task
        self._turn = turn
        self._runs = runs
        self._stopped = threading.Event()
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._work,), name="llamatelemetry-generate", daemon=True
        )
        self.feed: TokenFeed = TokenFeed(self._thread.is_alive)
        self.admission_wait_ms: float | None = None
        self._begun_ns = SYSTEM_CLOCK.monotonic_ns()

    def begin(self) -> None:
        """Starts the thread."""
        self._runs.add(self)
        self._thread.start()

    def report(self) -> KVReport | None:
        """Its cache has no pages."""
        return None

    def stop(self, error: BackendError | None = None) -> None:
        """Has the model stop after the step that it is in."""
        self._stopped.set()
        self.feed.cut(error)

    def close(self) -> None:
        """The same; the thread ends by itself."""
        self.stop()

    def join(self, timeout_s: float) -> None:
        """Waits for the thread."""
        self._thread.join(timeout_s)

    def _work(self) -> None:
        try:
            with self._turn:
                if not self._stopped.is_set():
                    self._generate()
        except LlamatelemetryError as error:
            self.feed.end(error)
        except BaseException as error:  # noqa: BLE001 - the reader is the one to have it
            failure = BackendResponseError(f"generate failed: {type(error).__name__}: {error}", kind="generate")
            failure.__cause__ = error
            self.feed.end(failure)
        else:
            self.feed.end()
        finally:
            self._runs.discard(self)

    def _generate(self) -> None:
        import torch

        model, task = self._model, self._task
        self.feed.started_ns = SYSTEM_CLOCK.monotonic_ns()
        self.admission_wait_ms = (self.feed.started_ns - self._begun_ns) * 1e-6
        with explained_out_of_memory(model.device, "while it generated", _LESS_CONTEXT):
            prompt = torch.tensor([task.prompt], device=model.device)
            model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                logits_processor=[_Drawer(task, has_encoder=bool(model.config.is_encoder_decoder))],
                stopping_criteria=[self._is_stopped],
                streamer=_Streamer(self.feed),
                **_options(model.generation_config, task),
            )

    def _is_stopped(self, input_ids: Any, _scores: Any, **_options: Any) -> Any:
        return input_ids.new_full(input_ids.shape[:1], self._stopped.is_set()).bool()


class _Drawer:
    """A logits processor that makes the token it has drawn the likeliest one."""

    def __init__(self, task: Task, *, has_encoder: bool) -> None:
        self._sampling = task.sampling
        self._prompt = task.prompt
        self._logprobs = task.logprobs
        # Of a model with an encoder the sequence is the answer, behind one token that begins it.
        self._answer_at = 1 if has_encoder else len(task.prompt)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        sampling = self._sampling
        logits = None if self._logprobs is None else scores[0].clone()
        if sampling.penalises:
            answer: Sequence[int] = input_ids[0, self._answer_at :].tolist()
            penalise(scores[0], self._prompt, answer, sampling)
        if sampling.temperature > 0:
            token = draw(scores, [sampling], [input_ids.shape[1]])
            scores = scores.new_full(scores.shape, float("-inf"))
            scores[0, token] = 0.0
        if self._logprobs is not None:
            self._logprobs.note(logits, int(scores[0].argmax()))
        return scores


class _Streamer:
    """Takes tokens from ``generate``, which hands it the prompt first."""

    def __init__(self, feed: TokenFeed) -> None:
        self._feed = feed
        self._has_prompt = False

    def put(self, value: Any) -> None:
        if not self._has_prompt:
            self._has_prompt = True
            return
        for token in value.flatten().tolist():
            self._feed.put(token)

    def end(self) -> None:
        """The thread says when it has ended."""


def _options(own: Any, task: Task) -> dict[str, Any]:
    """What ``generate`` is told by name. What a configuration leaves open is taken from the model's own instead."""
    options: dict[str, Any] = {name: value for name, value in _NEUTRAL.items() if hasattr(own, name)}
    options["max_new_tokens"] = task.max_tokens
    options["eos_token_id"] = sorted(task.eos) or None
    if own.pad_token_id is None:
        options["pad_token_id"] = min(task.eos, default=0)
    return options
