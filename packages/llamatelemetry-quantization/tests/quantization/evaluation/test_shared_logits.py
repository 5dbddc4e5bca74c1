from __future__ import annotations

import resource
from contextlib import contextmanager

import numpy as np
import pytest

from llamatelemetry.errors import ModelFileError
from llamatelemetry.quantization import SharedLogits, measure_quality, quantize, read_text
from llamatelemetry.quantization.testing import VOCABULARY, write_small_model

WINDOW_BYTES = 4 * 31 * VOCABULARY
"""Of the 31 tokens that are scored in a window of 64."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A small parent and two variants, each in a file of its own name."""
    folder = tmp_path_factory.mktemp("models")
    parent = write_small_model(folder / "parent.gguf", blocks=1)
    for name in ("Q4_0", "Q8_0"):
        quantize(parent, folder / f"{name}.gguf", file_type=name, threads=1)
    return folder


@pytest.fixture
def measure(models, words):
    """Measures a variant against the parent, on three windows."""

    def run(name, shared=None, **given):
        settings = {"text": words, "context": 64, "windows": 3, "threads": 1} | given
        return measure_quality(models / f"{name}.gguf", models / "parent.gguf", shared=shared, **settings)

    return run


@pytest.fixture
def folder(tmp_path):
    """Where logits go; not there yet."""
    return tmp_path / "logits"


def kept(folder):
    return sorted(path.suffix for path in folder.glob("*"))


def test_shared_measurements_of_smollm_are_the_same_and_the_parent_runs_once(parent, quantized, folder, children):
    # Windows of 200 are computed in two blocks, the second of 35 tokens.
    settings = {"context": 200, "windows": 2, "threads": 2}
    files = [quantized(name) for name in ("Q4_K_M", "Q8_0")]
    apart = [measure_quality(parent, **settings), *(measure_quality(path, parent, **settings) for path in files)]
    assert children.count("f16.gguf") == 3
    children.clear()

    shared = SharedLogits(folder)
    together = [measure_quality(parent, shared=shared, **settings)]
    together += [measure_quality(path, parent, shared=shared, **settings) for path in files]

    assert together == apart
    assert children == ["f16.gguf", "Q4_K_M.gguf", "Q8_0.gguf"]


def test_the_parent_runs_once_also_where_it_is_not_measured_itself(measure, folder, children):
    shared = SharedLogits(folder)
    names = ["Q4_0", "Q8_0", "Q4_0"]

    together = [measure(name, shared) for name in names]

    assert children == ["parent.gguf", "Q4_0.gguf", "Q8_0.gguf", "Q4_0.gguf"]
    assert together == [measure(name) for name in names]
    assert kept(folder) == [".f32"] * 3 + [".json"]


def test_what_was_computed_with_one_thread_is_what_two_compute(measure, folder):
    measure("Q4_0", SharedLogits(folder), threads=1)

    assert measure("Q8_0", SharedLogits(folder), threads=4) == measure("Q8_0", threads=4)


def test_other_windows_other_texts_and_other_models_are_computed(measure, models, words, folder, children):
    shared = SharedLogits(folder)
    measure("Q4_0", shared, windows=1)
    assert measure("Q8_0", shared, windows=3) == measure("Q8_0", windows=3)
    assert kept(folder) == [".f32"] * 3 + [".json"]
    assert measure("Q8_0", shared, context=32) == measure("Q8_0", context=32)

    words.write_text("Another text of as many letters or more, none of which was ever seen before. " * 3)
    assert measure("Q8_0", shared) == measure("Q8_0")

    # Another model at the same path, of the same size.
    path = models / "parent.gguf"
    before = path.read_bytes()
    try:
        write_small_model(path, blocks=1, seed=9)
        assert path.stat().st_size == len(before)
        children.clear()
        assert measure("Q8_0", shared) == measure("Q8_0")
        assert children.count("parent.gguf") == 2
    finally:
        path.write_bytes(before)


def test_past_the_budget_windows_are_computed_each_time_and_the_log_says_so(measure, folder, children, caplog):
    shared = SharedLogits(folder, most_bytes=WINDOW_BYTES)

    together = [measure(name, shared) for name in ("Q4_0", "Q8_0")]

    assert together == [measure(name) for name in ("Q4_0", "Q8_0")]
    assert children[:4] == ["parent.gguf", "Q4_0.gguf", "parent.gguf", "Q8_0.gguf"]
    assert kept(folder) == [".f32"]
    assert caplog.text.count("not all logits are kept") == 2
    assert f"more than the {WINDOW_BYTES} bytes" in caplog.text


def test_without_a_budget_what_is_there_is_read_and_nothing_is_kept(measure, folder, children, caplog):
    measure("Q4_0", SharedLogits(folder, most_bytes=0))
    assert not folder.exists()
    measure("Q4_0", SharedLogits(folder))
    wanted = measure("Q8_0")
    children.clear()

    assert measure("Q8_0", SharedLogits(folder, most_bytes=0)) == wanted
    assert children == ["Q8_0.gguf"]
    assert caplog.text == ""


def test_a_file_that_was_cut_is_not_read(measure, folder, children, caplog):
    shared = SharedLogits(folder)
    wanted = measure("Q4_0", shared)
    path = next(folder.glob("*.f32"))
    path.write_bytes(path.read_bytes()[:-4])

    assert measure("Q4_0", shared) == wanted
    assert f"{path} has {WINDOW_BYTES - 4} bytes and not {WINDOW_BYTES}" in caplog.text
    assert path.stat().st_size == WINDOW_BYTES


@pytest.mark.parametrize("said", ["", "{", "[]", '{"vocabulary": 1}'])
def test_a_note_that_is_none_is_not_believed(measure, folder, said):
    shared = SharedLogits(folder)
    wanted = measure("Q4_0", shared)
    next(folder.glob("*.json")).write_text(said)

    assert measure("Q4_0", shared) == wanted


def test_a_measurement_that_is_stopped_leaves_no_half_file(measure, folder, children):
    def stop(progress):
        if progress.done == 2:
            raise KeyboardInterrupt

    shared = SharedLogits(folder)
    with pytest.raises(KeyboardInterrupt):
        measure("Q4_0", shared, on_progress=stop)
    assert kept(folder) == [".f32"] * 2

    assert measure("Q4_0", shared) == measure("Q4_0")
    assert kept(folder) == [".f32"] * 3 + [".json"]


@contextmanager
def files_of_at_most(size):
    """What a full disk is like: the kernel takes so many bytes of a file, and no more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_no_more_ends_no_measurement(measure, folder, caplog):
    with files_of_at_most(WINDOW_BYTES - 1):
        assert measure("Q4_0", SharedLogits(folder)) == measure("Q4_0")
    assert kept(folder) == []
    assert "could be written" in caplog.text

    (folder / "file").write_text("")
    assert measure("Q4_0", SharedLogits(folder / "file" / "logits")) == measure("Q4_0")
    assert "Not a directory" in caplog.text


def test_a_source_that_runs_is_ended_and_one_that_need_not_does_not_start(models, words, folder, children):
    text, shared, tokens = read_text(words), SharedLogits(folder), list(range(10, 160))
    told = {"text": text, "context": 256, "threads": 1}
    with shared.source(models / "parent.gguf", **told) as source:
        assert not source.known
        facts = source.vocabulary, source.begins_with, source.context, source.tokenize(text.content)
        computed = np.concatenate(list(source.logits(tokens, 5)))
    children.clear()

    with shared.source(models / "parent.gguf", **told) as source:
        assert source.known
        assert (source.vocabulary, source.begins_with, source.context, source.tokenize(text.content)) == facts
        assert np.array_equal(np.concatenate(list(source.logits(tokens, 5))), computed)
        assert children == []
        assert source.tokenize("Another text.")
        assert children == ["parent.gguf"]


def test_a_model_that_is_not_there_is_the_usual_error(folder, words):
    with pytest.raises(ModelFileError, match="does not exist"):
        measure_quality(folder / "none.gguf", text=words, shared=SharedLogits(folder))
