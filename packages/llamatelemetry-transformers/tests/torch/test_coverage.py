"""Which models are batched: by what they declare, and by what they answer. On models with random weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import transformers
from transformers import (
    MambaConfig,
    MambaForCausalLM,
    MptConfig,
    MptForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    XGLMConfig,
    XGLMForCausalLM,
)

from llamatelemetry.errors import StreamInterruptedError
from llamatelemetry.transformers.continuous import BatchLayout, ContinuousBatch
from llamatelemetry.transformers.coverage import Probe, probe, why_not_batched

LAYOUT = BatchLayout(slots=2, page_size=4, num_blocks=32, max_batch_tokens=32)


@pytest.fixture
def checked() -> Iterator[Callable[[Any], bool]]:
    """Asks a model by itself and then in a batch."""
    batches: list[ContinuousBatch] = []

    def check(model: Any) -> bool:
        question = probe(model)
        batches.append(ContinuousBatch(model, LAYOUT))
        return question.check(batches[-1])

    yield check
    for batch in batches:
        batch.close()


def test_a_usual_model_is_covered(tiny):
    assert why_not_batched(tiny[0]) == ""


def test_a_model_with_an_encoder_is_not():
    config = T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    assert why_not_batched(T5ForConditionalGeneration(config)) == "it has an encoder"


def test_a_model_that_keeps_a_state_is_not():
    model = MambaForCausalLM(MambaConfig(vocab_size=60, hidden_size=16, num_hidden_layers=1, state_size=4))
    assert "state that is not a cache" in why_not_batched(model)


@pytest.mark.parametrize(
    "model",
    [
        XGLMForCausalLM(XGLMConfig(vocab_size=60, d_model=16, ffn_dim=16, num_layers=1, attention_heads=2)),
        MptForCausalLM(MptConfig(vocab_size=60, d_model=16, n_heads=2, n_layers=1)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_model_whose_attention_is_its_own_is_not(model):
    # Both repeat themselves so much that an answer of theirs hardly says what they read.
    assert "attention" in why_not_batched(model)


@pytest.mark.parametrize(
    ("places", "is_covered"), [({"": "cpu"}, True), ({"model": 0, "lm_head": 0}, True), ({"a": 0, "b": "cpu"}, False)]
)
def test_a_model_on_several_devices_is_not(tiny, places, is_covered):
    tiny[0].hf_device_map = places
    assert (why_not_batched(tiny[0]) == "") == is_covered


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("no_repeat_ngram_size", 3),
        ("bad_words_ids", [[1]]),
        ("suppress_tokens", [1]),
        ("guidance_scale", 1.5),
        ("encoder_repetition_penalty", 1.5),
        ("min_new_tokens", 4),
        ("exponential_decay_length_penalty", (5, 1.1)),
    ],
)
def test_wishes_that_only_generate_grants_are_named(tiny, name, value):
    setattr(tiny[0].generation_config, name, value)
    assert why_not_batched(tiny[0]) == f"its generation configuration asks for {name}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("no_repeat_ngram_size", 0),
        ("suppress_tokens", []),
        ("guidance_scale", 1.0),
        ("encoder_repetition_penalty", 1.0),
        ("repetition_penalty", 1.2),
        ("temperature", 0.6),
        # Draws are ours in both ways, and know none of these.
        ("typical_p", 0.9),
        ("epsilon_cutoff", 0.1),
    ],
)
def test_wishes_that_are_none_or_make_no_difference_are_passed_over(tiny, name, value):
    setattr(tiny[0].generation_config, name, value)
    assert why_not_batched(tiny[0]) == ""


def test_a_transformers_that_is_too_old_is_told(tiny, monkeypatch):
    monkeypatch.setattr(transformers, "__version__", "5.20.1")
    assert why_not_batched(tiny[0]) == (
        "transformers 5.20.1 is too old: 5.21 or newer is needed for continuous batching"
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_model_that_answers_the_same_in_a_batch_passes(make_tiny, checked, attention):
    assert checked(make_tiny(attn_implementation=attention, initializer_range=0.2))


def test_a_model_with_layers_of_two_kinds_passes(checked):
    torch.manual_seed(0)
    kinds = ["full_attention", "sliding_attention"]
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=kinds,
        sliding_window=4,
        use_sliding_window=True,
    )
    model = Qwen2ForCausalLM(config).eval()
    assert why_not_batched(model) == ""
    assert checked(model)


def in_the_batch(change: Callable[[Any, dict[str, Any]], Any]) -> Callable[..., Any]:
    """A hook that changes what a module is given in a batch's thread, and nowhere else."""

    def hook(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if threading.current_thread() is threading.main_thread():
            return None
        return args, change(args, dict(kwargs))

    return hook


def test_a_model_that_forgets_where_its_tokens_are_does_not(make_tiny, checked):
    def forget(_args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        kwargs["position_ids"] = torch.zeros_like(kwargs["position_ids"])
        return kwargs

    # With smaller weights it hardly matters where a token is.
    model = make_tiny(initializer_range=0.2)
    model.register_forward_pre_hook(in_the_batch(forget), with_kwargs=True)
    assert not checked(model)


def test_a_model_that_does_not_read_the_cache_does_not_either(tiny, checked):
    def forget(_args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if kwargs["input_ids"].shape[1] == 1:
            kwargs["attention_mask"] = torch.full_like(kwargs["attention_mask"], torch.finfo(torch.float32).min)
            kwargs["attention_mask"][..., -1] = 0
        return kwargs

    tiny[0].register_forward_pre_hook(in_the_batch(forget), with_kwargs=True)
    assert not checked(tiny[0])


def test_a_batch_that_dies_of_the_question_says_so(tiny, checked):
    def die(_args: Any, _kwargs: dict[str, Any]) -> dict[str, Any]:
        raise ValueError("not with me")

    tiny[0].register_forward_pre_hook(in_the_batch(die), with_kwargs=True)
    with pytest.raises(StreamInterruptedError, match="not with me"):
        checked(tiny[0])


def test_the_question_changes_nothing(tiny):
    model = tiny[0]
    question = probe(model)
    assert isinstance(question, Probe)
    assert len(question.prompt) == 8
    assert not any(parameter.grad is not None for parameter in model.parameters())
    assert not question.logits[0].requires_grad


def test_a_model_with_few_tokens_is_asked_with_those(make_tiny, checked):
    model = make_tiny(vocab_size=5)
    assert max(probe(model).prompt) < 5
    assert checked(model)
