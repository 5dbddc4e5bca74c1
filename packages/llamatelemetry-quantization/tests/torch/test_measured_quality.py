"""What is measured through llama.cpp is what transformers computes of the same weights."""

from __future__ import annotations

import math

import pytest
import torch

from llamatelemetry.quantization import LlamaLogits, compare_sources, convert, read_text
from llamatelemetry.quantization.evaluation.texts import windows_of

CONTEXT = 128
WINDOWS = 3


class TransformersLogits:
    """The contract, kept by another runtime."""

    def __init__(self, model, tokenizer):
        self._model, self._tokenizer = model, tokenizer
        self.vocabulary, self.begins_with, self.context = model.config.vocab_size, None, CONTEXT

    def tokenize(self, text):
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def logits(self, tokens, first):
        with torch.no_grad():
            yield self._model(torch.tensor([list(tokens)])).logits[0, first:].float().numpy()


@pytest.fixture(scope="module")
def converted(smollm, tmp_path_factory):
    folder, _, _ = smollm
    path = tmp_path_factory.mktemp("gguf") / "f32.gguf"
    convert(folder, path, file_type="F32")
    return path


def test_perplexity_and_distributions_are_those_of_transformers(smollm, converted):
    _, model, tokenizer = smollm
    reference = TransformersLogits(model, tokenizer)
    text = read_text(None)

    with LlamaLogits(converted, context=CONTEXT, threads=1) as source:
        measured = compare_sources(source, reference, text=text, windows=WINDOWS)

    windows = windows_of(text, reference.tokenize(text.content), context=CONTEXT, begins_with=None, most=WINDOWS)
    losses = [
        torch.nn.functional.cross_entropy(
            torch.from_numpy(next(reference.logits(window.tokens, window.first))).double(), torch.tensor(window.targets)
        ).item()
        for window in windows
    ]
    assert measured.perplexity.value == pytest.approx(math.exp(sum(losses) / len(losses)), rel=2e-3)
    assert measured.comparison.perplexity_ratio.value == pytest.approx(1, abs=2e-3)
    # What is left is the cache of llama.cpp, which is in F16.
    assert measured.comparison.divergence.value < 1e-4
    assert measured.comparison.agreement.value > 0.98
