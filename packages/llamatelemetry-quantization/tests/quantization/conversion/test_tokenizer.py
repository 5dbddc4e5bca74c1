from __future__ import annotations

import json
import struct

import pytest

from llamatelemetry.errors import ModelFileError, UnknownNameError
from llamatelemetry.quantization.conversion.pre_tokenizers import PRE_TOKENIZERS
from llamatelemetry.quantization.conversion.tokenizer import tokenizer_keys
from llamatelemetry.quantization.small_checkpoints import write_small_checkpoint

SIZE = 264


def field(number, value):
    if isinstance(value, int):
        return bytes([number << 3, value])
    if isinstance(value, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", value)
    return bytes([number << 3 | 2, len(value)]) + value


def model_of(*pieces, model_type=2, prefix=1):
    data = b"".join(field(1, field(1, text) + field(2, score) + field(3, kind)) for text, score, kind in pieces)
    return data + field(2, field(3, model_type)) + field(3, field(3, prefix))


PIECES = (
    (b"<unk>", 0.0, 2),
    (b"<s>", 0.0, 3),
    (b"</s>", 0.0, 3),
    (b"<0x0A>", 0.0, 6),
    (b"ab", -1.0, 1),
    (b"u", -2.0, 4),
)


@pytest.fixture
def folder(tmp_path):
    return write_small_checkpoint(tmp_path / "small")


@pytest.fixture
def change(folder):
    def changed(name="tokenizer.json", **values):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return changed


def test_a_byte_level_tokenizer_is_there_with_its_merges_and_marks(folder):
    keys = tokenizer_keys(folder, {"eos_token_id": 7}, SIZE + 2)

    assert (keys["tokenizer.ggml.model"], keys["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    assert tokens[:3] == (b"<|endoftext|>", b"<|im_start|>", b"<|im_end|>")
    assert types[:4] == [3, 3, 3, 1]
    assert (tokens[-1], types[-1]) == (b"[PAD265]", 5)
    assert keys["tokenizer.ggml.merges"][0] == "Ġ t".encode()
    assert keys["tokenizer.ggml.eos_token_id"] == 2
    assert keys["tokenizer.ggml.add_bos_token"] is False
    assert keys["tokenizer.chat_template"].startswith("{% for message")


def test_merges_are_read_as_texts_too(folder, change):
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    before = tokenizer_keys(folder, {}, SIZE)
    change(model=model | {"merges": [" ".join(pair) for pair in model["merges"]]})

    assert tokenizer_keys(folder, {}, SIZE) == before


def test_a_pre_tokenizer_that_is_not_known_is_an_error_that_lists_those_that_are(folder, change):
    change(pre_tokenizer={"type": "Whitespace"})
    with pytest.raises(UnknownNameError, match=r"'Whitespace \(\)'; registered: gpt-2, gpt-4o, llama-bpe") as caught:
        tokenizer_keys(folder, {}, SIZE)
    assert caught.value.known == PRE_TOKENIZERS


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"type": "Unigram", "vocab": []}}, "of type 'Unigram'"),
        ({"model": {"merges": [], "vocab": {}}}, "no vocab"),
        ({"model": {"merges": [], "vocab": {"a": 0, "b": 0}}}, "the same id"),
        ({"model": {"merges": [], "vocab": {"a": 999}}}, "its model has 264 tokens"),
        ({"model": {"merges": ["a"], "vocab": {"a": 0}}}, "a merge that is no pair"),
        ({"model": {"merges": [], "vocab": {"\ud800": 0}}}, "not Unicode"),
        ({"normalizer": {"type": "Lowercase"}}, "'Lowercase', which llama.cpp does not"),
        ({"added_tokens": [{"id": 264, "content": "x"}]}, "resize its embeddings"),
        ({"added_tokens": [{"id": "1"}]}, "without id and content"),
        ({"added_tokens": {"a": 1}}, "are no list"),
    ],
)
def test_a_tokenizer_that_cannot_be_carried_over_is_refused(folder, change, values, message):
    change(**values)
    with pytest.raises(ModelFileError, match=message):
        tokenizer_keys(folder, {}, SIZE)


@pytest.mark.parametrize(
    ("settings", "first", "expected"),
    [({}, "<|im_start|>", True), ({"add_bos_token": False}, "<|im_start|>", False), ({}, None, False)],
)
def test_a_text_gets_the_token_before_it_that_it_gets_with_transformers(folder, change, settings, first, expected):
    pieces = [{"Sequence": {"id": "A", "type_id": 0}}]
    pieces = [{"SpecialToken": {"id": first, "type_id": 0}}, *pieces] if first else pieces
    change(post_processor={"type": "Sequence", "processors": [{"type": "TemplateProcessing", "single": pieces}]})
    change("tokenizer_config.json", bos_token="<|im_start|>", **settings)

    keys = tokenizer_keys(folder, {}, SIZE)

    assert keys["tokenizer.ggml.add_bos_token"] is expected
    assert keys["tokenizer.ggml.bos_token_id"] == 1


def test_of_several_ends_the_first_is_taken_where_the_tokenizer_names_none(folder, change):
    change("tokenizer_config.json", eos_token=None)
    assert tokenizer_keys(folder, {"eos_token_id": [5, 6]}, SIZE)["tokenizer.ggml.eos_token_id"] == 5


def test_chat_templates_come_from_files_of_their_own_first_and_may_have_names(folder, change):
    change(
        "tokenizer_config.json", chat_template=[{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]
    )
    keys = tokenizer_keys(folder, {}, SIZE)
    assert (keys["tokenizer.chat_template"], keys["tokenizer.chat_template.rag"]) == ("a", "b")
    assert keys["tokenizer.chat_templates"] == [b"rag"]

    (folder / "chat_template.json").write_text('{"chat_template": "c"}')
    assert tokenizer_keys(folder, {}, SIZE)["tokenizer.chat_template"] == "c"
    (folder / "chat_template.jinja").write_text("d")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("e")
    keys = tokenizer_keys(folder, {}, SIZE)
    assert (keys["tokenizer.chat_template"], keys["tokenizer.chat_template.tool_use"]) == ("d", "e")


@pytest.mark.parametrize("template", [7, [{"name": "a"}], [{"name": "../a", "template": "x"}], "\ud800"])
def test_a_chat_template_that_is_none_is_refused(folder, change, template):
    change("tokenizer_config.json", chat_template=template)
    with pytest.raises(ModelFileError, match=r"chat_template|not Unicode"):
        tokenizer_keys(folder, {}, SIZE)


def test_a_model_of_sentencepiece_is_read_with_what_was_added_to_it(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(model_of(*PIECES))
    added = {"6": {"content": "▁▁x"}, "7": {"content": "<end>", "special": True}, "x": {}}
    settings = {"bos_token": "<s>", "added_tokens_decoder": added}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))

    keys = tokenizer_keys(folder, {}, 9)

    assert keys["tokenizer.ggml.model"] == "llama"
    assert keys["tokenizer.ggml.tokens"] == (*(text for text, _, _ in PIECES), b"  x", b"<end>", b"[PAD8]")
    assert keys["tokenizer.ggml.token_type"] == [2, 3, 3, 6, 1, 1, 4, 3, 5]
    assert keys["tokenizer.ggml.scores"][4:7] == (-1.0, -2.0, -1000.0)
    assert keys["tokenizer.ggml.add_bos_token"] is True
    assert keys["tokenizer.ggml.add_space_prefix"] is True


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has no pieces"),
        (b"\xff" * 12, "more than 64 bits"),
        (model_of(*PIECES)[:9], "cut off"),
        (b"\x0a\xff\xff\xff\xff\x0f", "cut off"),
        (b"\x0b", "wire type 3"),
        (b"\x08\x01", "a message is expected"),
        (model_of((b"a", 0.0, 9)), "has the type 9"),
        (model_of((b"\xff", 0.0, 1)), "is not a model of sentencepiece"),
        (model_of((b"a", float("nan"), 1)), "the score nan"),
        (model_of(*PIECES, model_type=1), "merges no pairs"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
    ],
)
def test_what_is_no_model_of_sentencepiece_is_refused(folder, data, message):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(data)
    with pytest.raises(ModelFileError, match=message):
        tokenizer_keys(folder, {}, SIZE)


def test_without_a_tokenizer_it_says_to_save_one(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelFileError, match="save the tokenizer beside the model"):
        tokenizer_keys(folder, {}, SIZE)
