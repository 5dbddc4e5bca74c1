from __future__ import annotations

import numpy as np

from llamatelemetry.quantization.dynamic.recorded import RecordedLogits
from llamatelemetry.quantization.evaluation.logits import LlamaLogits


def test_what_was_computed_once_is_read_again_without_the_model(tiny, tmp_path):
    tokens, others = list(range(10, 160)), list(range(60, 90))
    with LlamaLogits(tiny, context=256, threads=1) as source:
        computed = [np.concatenate(list(source.logits(given, 5))) for given in (tokens, others)]
        recorded = RecordedLogits(source, tmp_path)
        for given in (tokens, others):
            list(recorded.logits(given, 5))

    with recorded:
        for given, wanted in zip((tokens, others, tokens), (*computed, computed[0]), strict=True):
            assert np.array_equal(np.concatenate(list(recorded.logits(given, 5))), wanted)
    assert list(tmp_path.iterdir()) == []
