"""What a backend is opened with: a folder, a name, a model; and what is wrong with it."""

from __future__ import annotations

import gc
import weakref

import pytest

from llamatelemetry.backends.protocol import Placement
from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.errors import InvalidValueError, ModelFileError, NotSupportedError
from llamatelemetry.transformers import TransformersBackend

CHAT = InferenceRequest(messages=[{"role": "user", "content": "Hi"}], max_tokens=2)


@pytest.fixture
def folder(tiny, tmp_path):
    """A folder with the small model and its tokenizer."""
    model, tokenizer = tiny
    path = tmp_path / "small-model"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_a_folder_is_all_that_it_takes_and_what_was_loaded_is_let_go_of(folder):
    backend = TransformersBackend(folder, device="cpu", dtype="bfloat16", attn="eager", slots=2, kv_tokens=256)
    info = backend.open()
    assert (info.model, info.quantization, info.gpus) == ("small-model", "bfloat16", ())
    *_, end = backend.stream(CHAT, Placement())
    assert end.usage.output_tokens == 2
    model = weakref.ref(backend._opened.model)
    backend.close()
    gc.collect()
    assert model() is None


def test_a_name_that_is_nowhere_offline_says_how_to_fetch_it():
    with pytest.raises(ModelFileError, match="hf download nobody/nothing"):
        TransformersBackend("nobody/nothing").open()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelFileError, match="gone"):
        TransformersBackend(tmp_path / "gone").open()


def test_a_device_that_is_not_there_is_named(folder):
    with pytest.raises(InvalidValueError, match="device='npu'"):
        TransformersBackend(folder, device="npu").open()


def test_the_tokenizer_of_a_given_model_is_looked_for_where_that_is_from(folder, tiny):
    model, _ = tiny
    with pytest.raises(InvalidValueError, match="tokenizer"):
        TransformersBackend(model).open()
    model.config._name_or_path = str(folder)
    backend = TransformersBackend(model, slots=1)
    backend.open()
    assert backend.tokenize("Hi")
    backend.close()
    named = TransformersBackend(model, folder, slots=1)
    named.open()
    assert named.tokenize("Hi")
    named.close()


def test_a_tokenizer_without_a_chat_template_takes_prompts_only(tiny):
    model, tokenizer = tiny
    template, tokenizer.chat_template = tokenizer.chat_template, None
    backend = TransformersBackend(model, tokenizer, batching=False)
    backend.open()
    try:
        with pytest.raises(NotSupportedError, match="no chat template"):
            list(backend.stream(CHAT, Placement()))
        *_, end = backend.stream(InferenceRequest(prompt="Hi", max_tokens=2), Placement())
        assert end.usage.output_tokens == 2
    finally:
        backend.close()
        tokenizer.chat_template = template


def test_what_only_loading_can_give_is_refused_for_a_model_that_is_loaded(tiny):
    for options in ({"device": "cpu"}, {"dtype": "float16"}, {"attn": "eager"}, {"model_options": {"revision": "x"}}):
        with pytest.raises(InvalidValueError, match=next(iter(options))):
            TransformersBackend(*tiny, **options)


def test_a_model_in_training_mode_is_refused(tiny):
    model, tokenizer = tiny
    with pytest.raises(InvalidValueError, match=r"eval\(\)"):
        TransformersBackend(model.train(), tokenizer)


@pytest.mark.parametrize("option", ["slots", "context_length", "page_size", "kv_tokens", "max_batch_tokens"])
def test_a_size_that_is_too_small_is_named(tiny, option):
    with pytest.raises(InvalidValueError, match=f"{option}=0"):
        TransformersBackend(*tiny, **{option: 0}).open()


@pytest.mark.parametrize("size", [2.5, "4"])
def test_a_size_that_is_no_whole_number_is_named(tiny, size):
    # A batch of two and a half would fail somewhere inside, and the model run one request at a time.
    with pytest.raises(InvalidValueError, match=r"slots=.*whole number"):
        TransformersBackend(*tiny, slots=size).open()


def test_sizes_follow_the_model_where_nobody_says(tiny):
    backend = TransformersBackend(*tiny)
    info = backend.open()
    backend.close()
    # The model is made for 512 tokens, and a cache in main memory holds four times that.
    assert (info.slots, info.context_length, info.kv_page_size, info.kv_tokens) == (16, 512, 32, 2048)


def test_a_context_is_never_longer_than_the_model_or_its_cache_allow(tiny):
    for options, length in (({"context_length": 10_000}, 512), ({"kv_tokens": 64}, 64), ({"context_length": 100}, 100)):
        backend = TransformersBackend(*tiny, slots=1, **options)
        assert backend.open().context_length == length
        backend.close()
