"""Models that tests run for real: SmolLM2, and small ones with random weights, made here and never fetched."""

from __future__ import annotations

import os

# Two shared cores: threads that wait by spinning slow everything down, each other above all.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Nothing here may ask a network for anything.
os.environ["HF_HUB_OFFLINE"] = "1"

import contextlib
import gc
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llamatelemetry.llama.model_files import demo_model

torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = "The quick brown fox jumps over the lazy dog. Name the seven days of the week and then the twelve months."


@pytest.fixture(scope="session", autouse=True)
def _what_is_there_is_no_garbage() -> Iterator[None]:
    """Whenever a batch ends, garbage is collected, which takes a second with all that tests import."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _no_thread_is_left_behind() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(10)  # it may be on its way out
    assert not set(threading.enumerate()) - before, "a test left threads behind"


@pytest.fixture(scope="session")
def smollm_folder() -> Path:
    """SmolLM2-135M-Instruct in float32, as transformers saves it: unpacked once for each environment.

    Reading the GGUF takes half a minute of CPU time, and reading what was saved a second.
    """
    folder = Path(sys.prefix) / "share" / "smollm2-135m-instruct"
    if not folder.is_dir():
        path = demo_model()
        unpacked = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
        # What was read of a GGUF does not let itself be saved, for all that nothing of it is packed any more.
        # The oldest transformers says nothing of it.
        vars(unpacked.config).pop("quantization_config", None)
        plain = type(unpacked)(unpacked.config)
        plain.load_state_dict(unpacked.state_dict())
        plain.generation_config = unpacked.generation_config
        unfinished = tempfile.mkdtemp(dir=sys.prefix)
        AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(unfinished)
        plain.save_pretrained(unfinished)
        folder.parent.mkdir(exist_ok=True)
        # Whoever is first is right: all write the same.
        with contextlib.suppress(OSError):
            Path(unfinished).rename(folder)
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


@pytest.fixture(scope="session")
def smollm(smollm_folder: Path) -> tuple[Any, Any]:
    """SmolLM2-135M-Instruct as a model of transformers in float32, and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(smollm_folder)
    return model.eval(), AutoTokenizer.from_pretrained(smollm_folder)


@cache
def _tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over a sentence: most characters beyond ASCII take several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML
    )


@pytest.fixture
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of 320 tokens, bytes among them, with ChatML as its template."""
    return _tiny_tokenizer()


@pytest.fixture
def make_tiny() -> Callable[..., Any]:
    """Makes a Llama of two layers with random weights, the same each time; options go to its configuration."""

    def make(**options: Any) -> Any:
        config = {
            "vocab_size": len(_tiny_tokenizer()),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "bos_token_id": None,
            # Random weights end an answer at random: most tests want it as long as they asked for.
            "eos_token_id": None,
            "pad_token_id": 0,
        }
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**{**config, **options})).eval()

    return make


@pytest.fixture
def tiny(make_tiny: Callable[..., Any], tiny_tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    """A Llama of two layers with random weights, and its tokenizer."""
    return make_tiny(), tiny_tokenizer
