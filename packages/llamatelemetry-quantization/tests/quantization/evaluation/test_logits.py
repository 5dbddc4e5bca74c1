from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from llamatelemetry.errors import BackendStartError, InvalidValueError, ModelFileError
from llamatelemetry.quantization.evaluation.llama_process import BATCH
from llamatelemetry.quantization.evaluation.logits import LlamaLogits


@pytest.fixture(scope="module")
def source(tiny):
    with LlamaLogits(tiny, context=256, threads=1) as opened:
        yield opened


def test_blocks_are_small_and_together_all_that_was_asked_for(source):
    tokens = [(number * 37 + 11) % 250 + 3 for number in range(200)]

    blocks = list(source.logits(tokens, 20))

    assert [len(block) for block in blocks] == [BATCH, BATCH, 180 - 2 * BATCH]
    assert {block.shape[1] for block in blocks} == {source.vocabulary} == {512}
    # What a text says does not depend on the text before it.
    assert np.array_equal(blocks[0], next(iter(list(source.logits(tokens, 20)))))


def test_a_text_begins_with_what_the_model_wants(source):
    assert source.begins_with == 1
    assert source.tokenize("AB")[0] == 1


def test_a_context_is_no_longer_than_the_model_was_trained_for(tiny):
    with LlamaLogits(tiny, context=4096, threads=1) as source:
        assert source.context == 512


@pytest.mark.parametrize(("argument", "value"), [("context", 2), ("threads", 0)])
def test_what_cannot_be_used_is_refused(tiny, argument, value):
    with pytest.raises(InvalidValueError, match=argument):
        LlamaLogits(tiny, **{argument: value})


def test_a_file_that_is_no_model_is_refused(tmp_path, tiny):
    path = tmp_path / "model.gguf"
    with pytest.raises(ModelFileError, match="does not exist"):
        LlamaLogits(path)
    path.write_bytes(b"hello")
    with pytest.raises(ModelFileError, match="not a GGUF file"):
        LlamaLogits(path)
    path.write_bytes(tiny.read_bytes()[:5000])
    with pytest.raises(ModelFileError, match="cannot load"):
        LlamaLogits(path, threads=1)


def test_a_crash_is_an_error_and_no_crash(tiny):
    with LlamaLogits(tiny, context=64, threads=1) as source:
        blocks = source.logits([10**6] * 8, 0)  # A token that does not exist.
        with pytest.raises(Exception, match=r"cannot compute|ended with"):
            list(blocks)


def test_a_child_that_was_killed_is_an_error_with_its_signal(tiny):
    with LlamaLogits(tiny, context=64, threads=1) as source:
        os.kill(source._process._process.pid, signal.SIGKILL)
        with pytest.raises(BackendStartError, match="SIGKILL"):
            list(source.logits([5] * 8, 0))


def test_closing_ends_the_child_and_its_parents_end_does_too(tiny):
    source = LlamaLogits(tiny, context=64, threads=1)
    child = psutil.Process(source._process._process.pid)
    source.close()
    source.close()
    assert not child.is_running()

    code = (
        "import os, sys; from llamatelemetry.quantization import LlamaLogits;"
        "source = LlamaLogits(sys.argv[1], context=64, threads=1);"
        "print(source._process._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tiny)], capture_output=True, text=True, check=False)
    end = time.monotonic() + 20
    while Path(f"/proc/{int(done.stdout)}").exists():
        assert time.monotonic() < end, "the child outlived its parent"
        time.sleep(0.05)
