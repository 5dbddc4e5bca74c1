"""Which models continuous batching covers: what they declare, and whether their answers are the same.

A model that transformers' batching does not know need not fail there. Its attention may just read
something else than it should, and the answer be wrong. So a batch is asked some tokens that plain
forward passes were asked before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from llamatelemetry.transformers.continuous import ContinuousBatch, untraced
from llamatelemetry.transformers.runs import Task
from llamatelemetry.transformers.runtime import MIN_CONTINUOUS, load_transformers, too_old
from llamatelemetry.transformers.sampling import Sampling

_NEEDS_ALL_TOKENS: Final = (
    "no_repeat_ngram_size",
    "bad_words_ids",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
    "guidance_scale",
    "encoder_repetition_penalty",
    "min_length",
    "min_new_tokens",
    "exponential_decay_length_penalty",
    "watermarking_config",
)
"""Wishes of a generation configuration that plain generate grants and a batch would pass over."""

_NEUTRAL: Final = {"guidance_scale": 1.0, "encoder_repetition_penalty": 1.0}
_PROBE_TOKENS: Final = 8
_ANSWER_TOKENS: Final = 8
_NEAR_TIE: Final = 0.1
"""Logits this close, in units of their spread, may change places by rounding."""


def why_not_batched(model: Any) -> str:
    """Why continuous batching cannot run a model, as far as its configuration tells; empty if it can."""
    transformers = load_transformers()
    old = too_old("transformers", transformers.__version__, MIN_CONTINUOUS)
    if old:
        return f"{old} for continuous batching"
    unfit = _why_unfit(model)
    if unfit:
        return unfit
    wishes = [name for name in _NEEDS_ALL_TOKENS if _is_wished(model.generation_config, name)]
    return f"its generation configuration asks for {', '.join(wishes)}" if wishes else ""


def _why_unfit(model: Any) -> str:
    if model.config.is_encoder_decoder:
        return "it has an encoder"
    if not hasattr(model, "init_continuous_batching"):
        return f"{type(model).__name__} has no continuous batching"
    if getattr(model, "_is_stateful", False):
        return "it keeps a state that is not a cache of keys and values"
    # It is told of the batch's attention, and goes on with its own, which reads no pages.
    if not getattr(model, "_supports_attention_backend", False):
        return f"the attention of {type(model).__name__} is its own and cannot be another one"
    if len(set((getattr(model, "hf_device_map", None) or {"": 0}).values())) > 1:
        return "it is spread over several devices"
    return ""


def _is_wished(config: Any, name: str) -> bool:
    value = getattr(config, name, None)
    return bool(value) and value != _NEUTRAL.get(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A question with its right answer, by plain forward passes.

    Attributes:
        prompt: The question.
        logits: The logits of each token of the answer, which goes on with the likeliest one.
    """

    prompt: list[int]
    logits: tuple[Any, ...]

    def check(self, batch: ContinuousBatch) -> bool:
        """Whether a batch gives the same answer, all but its first token from what is in its cache.

        Raises:
            BackendError: The batch fails.
        """
        task = Task(prompt=self.prompt, max_tokens=len(self.logits), sampling=Sampling(), eos=frozenset())
        with untraced():
            run = batch.run(task)
            try:
                answer = list(run.feed)
            finally:
                run.close()
        for logits, token in zip(self.logits, answer, strict=True):
            if not _is_right(logits, token):
                return False
            if token != int(logits.argmax()):
                return True  # As good as the likeliest; what follows is another answer's.
        return True


def probe(model: Any) -> Probe:
    """Asks a model by itself. Before there is a batch: that may leave it with an attention that reads pages only."""
    import torch

    size = model.config.get_text_config().vocab_size
    prompt = [number % size for number in range(1, _PROBE_TOKENS + 1)]
    sequence, answer = list(prompt), []
    with torch.no_grad(), untraced():
        for _ in range(_ANSWER_TOKENS):
            answer.append(model(torch.tensor([sequence], device=model.device), use_cache=False).logits[0, -1].float())
            sequence.append(int(answer[-1].argmax()))
    return Probe(prompt=prompt, logits=tuple(answer))


def _is_right(logits: Any, token: int) -> bool:
    return bool(logits.max() - logits[token] <= _NEAR_TIE * logits.std())
