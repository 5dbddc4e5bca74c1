"""Texts become the same tokens in real llama.cpp as with the tokenizers that checkpoints carry."""

from __future__ import annotations

import json

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from llamatelemetry.quantization import convert
from llamatelemetry.quantization.conversion import pre_tokenizers as known
from llamatelemetry.quantization.small_checkpoints import write_small_checkpoint

TEXT = (
    "The quick brown fox doesn't jump over 1234567 lazy dogs; we'll see, they've said. "
    "Größe naïve Привет мир 你好世界 HTTPServer camelCase snake_case x += 12.5;\n\n\tif (a) { return b; }\r\n  done   "
)
HARD = [
    "3 33 333 3333 33333 1,000.50",
    "don't DON'T we'll 'tis  multiple   spaces",
    "\n\n \t\tindent\r\n  end  ",
    "Größe naïve Привет 你好世界 🦙🦙",
    "HTTPServer/path//to camelCase ÀÉ iPhone",
    "a<|im_end|>b",
    " ",
]
SPLITS = {"llama-bpe": known._LLAMA3, "smaug-bpe": known._LLAMA3, "qwen2": known._QWEN2}
SPLITS |= {"tekken": known._TEKKEN, "gpt-4o": known._GPT4O}


def byte_level(name):
    tokenizer = Tokenizer(models.BPE(ignore_merges=name in {"llama-bpe", "tekken"}))
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name not in SPLITS)
    first = [pre_tokenizers.Digits(individual_digits=True)] if name == "smollm" else []
    if name in SPLITS:
        first = [pre_tokenizers.Split(Regex(SPLITS[name]), "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, words]) if first else words
    tokenizer.normalizer = normalizers.NFC() if name == "qwen2" else None
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    train(tokenizer, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], alphabet)
    return tokenizer


def train(tokenizer, special, alphabet):
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator([TEXT, *HARD], trainer)


def sentencepiece():
    """As transformers saves Llama 2: no scores, and bytes for what is not there."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    train(tokenizer, ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))], [])
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = content["added_tokens"][:3]
    return Tokenizer.from_str(json.dumps(content))


def save(tokenizer, folder, **settings):
    write_small_checkpoint(folder, vocab_size=tokenizer.get_vocab_size())
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("name", known.PRE_TOKENIZERS)
def test_every_known_pre_tokenizer_cuts_as_llama_cpp_does_under_its_name(tmp_path, ask, name):
    tokenizer = byte_level(name)
    save(tokenizer, tmp_path / "small", eos_token="<|im_end|>", bos_token="<|endoftext|>", add_bos_token=False)
    convert(tmp_path / "small", tmp_path / "out.gguf")

    answers = ask(tmp_path / "out.gguf", [("/tokenize", {"content": text, "add_special": True}) for text in HARD])

    assert [answer["tokens"] for answer in answers] == [tokenizer.encode(text).ids for text in HARD]


def test_sentencepiece_saved_as_json_merges_as_it_did(tmp_path, ask):
    tokenizer = sentencepiece()
    save(tokenizer, tmp_path / "small", eos_token="</s>", bos_token="<s>", add_bos_token=False)
    convert(tmp_path / "small", tmp_path / "out.gguf")
    texts = [text for text in HARD if "<|" not in text]

    answers = ask(tmp_path / "out.gguf", [("/tokenize", {"content": text, "add_special": True}) for text in texts])

    assert [answer["tokens"] for answer in answers] == [tokenizer.encode(text).ids for text in texts]


def test_tokens_that_were_added_are_found_in_texts(tmp_path, ask):
    tokenizer = byte_level("qwen2")
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("<|mark|>", special=True)])
    save(tokenizer, tmp_path / "small", eos_token="<|im_end|>")
    convert(tmp_path / "small", tmp_path / "out.gguf")
    text = "call <tool> and<|mark|>end"

    (answer,) = ask(tmp_path / "out.gguf", [("/tokenize", {"content": text, "add_special": True})])

    assert answer["tokens"] == tokenizer.encode(text).ids
