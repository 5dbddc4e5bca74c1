"""Draws the tokens of a continuous batch, each request's by its own rules.

transformers asks an object for this that it makes from a generation configuration, which is one for
all requests. This takes that object's place and has its methods. A request brings its rules along as
``sampling``, and nothing is computed for one that takes the likeliest token. One that wants to know
how likely its tokens were brings ``logprobs``.
"""

from __future__ import annotations

from typing import Any

from llamatelemetry.transformers.logprobs import Logprobs
from llamatelemetry.transformers.sampling import Sampling, draw, penalise


class BatchSampler:
    """Stands in for a ``ContinuousBatchingLogitsProcessorList``. All of it runs in the batch's thread.

    Attributes:
        do_processing: True, so that it is asked at every step.
        tensors_required: Nothing is kept on the device.
    """

    do_processing: bool = True
    tensors_required: int = 0

    def __init__(self) -> None:
        self._drawing: list[Any] = []

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        """What a request brings along is ours."""

    def fill_defaults(self, tensor: Any) -> None:
        """There is nothing on the device to fill."""

    def prepare_tensor_args(self, requests_in_batch: list[Any], arg_storage: Any) -> Any:
        """Notes which requests get a token from the step to come: theirs are the first rows, in this order."""
        self._drawing = [request.state for request in requests_in_batch if request.has_new_token]
        return arg_storage

    def __call__(self, input_ids: Any, scores: Any, logits_processor_args: Any) -> Any:
        """Makes the token that each request has drawn the likeliest one, which is the one that is taken."""
        rows: list[int] = []
        samplings: list[Sampling] = []
        positions: list[int] = []
        noting: list[tuple[int, Logprobs, Any]] = []
        for row, state in enumerate(self._drawing):
            sampling: Sampling = state.logit_processor_kwargs["sampling"]
            logprobs: Logprobs | None = state.logit_processor_kwargs.get("logprobs")
            if logprobs is not None:
                noting.append((row, logprobs, scores[row].clone()))
            if sampling.penalises:
                penalise(scores[row], *_said(state), sampling)
            if sampling.temperature > 0:
                rows.append(row)
                samplings.append(sampling)
                # The tokens that are in the cache by now, for the step was prepared: the new one's position.
                positions.append(state.position_offset)
        if rows:
            tokens = draw(scores[rows], samplings, positions)
            scores[rows] = float("-inf")
            scores[rows, tokens] = 0.0
        for row, logprobs, logits in noting:
            logprobs.note(logits, int(scores[row].argmax()))
        return scores


def _said(state: Any) -> tuple[list[int], list[int]]:
    """Tokens of the prompt and of the answer; one that had to begin anew has its answer behind its prompt."""
    prompt = state._true_initial_tokens or len(state.initial_tokens)  # noqa: SLF001 - told nowhere else
    return state.initial_tokens[:prompt], [*state.initial_tokens[prompt:], *state.generated_tokens]
