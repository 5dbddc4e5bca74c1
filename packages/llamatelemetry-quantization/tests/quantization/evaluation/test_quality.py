from __future__ import annotations

import pytest

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.quantization import measure_quality
from llamatelemetry.quantization.testing import write_small_model

SETTINGS = {"context": 64, "windows": 3, "threads": 2}


@pytest.fixture(scope="module")
def against_parent(parent, quantized):
    """SmolLM2's types against it, from the coarsest."""
    return [measure_quality(quantized(name), parent, **SETTINGS) for name in ("Q2_K", "Q4_K_M", "Q8_0")]


def test_a_model_is_no_other_than_itself(parent):
    seen = []
    quality = measure_quality(parent, parent, on_progress=seen.append, **SETTINGS)

    assert quality.comparison.divergence.value == 0
    assert quality.comparison.divergence_max == 0
    assert quality.comparison.perplexity_ratio.value == 1
    assert quality.comparison.agreement.value == 1
    assert quality.perplexity == quality.comparison.parent_perplexity
    assert [(each.done, each.total) for each in seen] == [(1, 3), (2, 3), (3, 3)]
    assert (quality.windows, quality.tokens, quality.context) == (3, 3 * 31, 64)


def test_coarser_types_are_further_from_the_parent(against_parent):
    divergences = [quality.comparison.divergence.value for quality in against_parent]
    assert divergences == sorted(divergences, reverse=True)
    assert divergences[0] > 5 * divergences[1] > 10 * divergences[2] > 0
    agreements = [quality.comparison.agreement.value for quality in against_parent]
    assert agreements == sorted(agreements)
    for quality in against_parent:
        compared = quality.comparison
        assert compared.divergence_median < compared.divergence.value < compared.divergence_max
        assert compared.perplexity_ratio.value == pytest.approx(
            quality.perplexity.value / compared.parent_perplexity.value
        )


def test_differences_on_the_same_windows_are_surer_than_perplexities(against_parent):
    for quality in against_parent:
        ratio, alone = quality.comparison.perplexity_ratio, quality.perplexity
        assert ratio.high / ratio.low < alone.high / alone.low


def test_without_a_parent_there_is_a_perplexity_alone(parent, against_parent):
    quality = measure_quality(parent, **SETTINGS)

    assert quality.comparison is None
    assert quality.perplexity == against_parent[0].comparison.parent_perplexity
    # What SmolLM2 is surprised by in plain English; a model of random weights has thousands.
    assert 5 < quality.perplexity.value < 80


def test_a_parent_of_other_tokens_is_refused_by_its_path(parent, tiny):
    with pytest.raises(InvalidValueError, match="tokens are others") as caught:
        measure_quality(tiny, parent, **SETTINGS)
    assert (caught.value.field, caught.value.value) == ("parent", str(parent))


def test_what_a_callback_raises_ends_it(tiny, words):
    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_quality(tiny, text=words, context=64, threads=1, on_progress=stop)


def test_random_models_know_nothing(tmp_path, words):
    path = write_small_model(tmp_path / "random.gguf", blocks=1)

    quality = measure_quality(path, text=words, context=64, threads=1)

    assert quality.text.name == "words.txt"
    assert quality.perplexity.value > 256
