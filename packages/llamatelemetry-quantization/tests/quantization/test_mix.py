"""Which tensor gets which type is held against llama.cpp's own choice, for every mix and kind of model."""

from __future__ import annotations

import gguf
import pytest

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.quantization import FILE_TYPES, quantize
from llamatelemetry.quantization.ggml import load_ggml
from llamatelemetry.quantization.gguf_reading import open_gguf, read_layout
from llamatelemetry.quantization.mix import choose_types
from llamatelemetry.quantization.output_plan import model_of
from llamatelemetry.quantization.testing import write_small_importance

ATTENTION = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (2, 256))
DENSE = {**ATTENTION, "attn_norm": (256,), "ffn_up": (2, 256), "ffn_gate": (2, 256), "ffn_down": (2, 512)}
MERGED = {"attn_qkv": (2, 256), "attn_output": (2, 256), "ffn_up": (2, 256), "ffn_down": (2, 512)}
EXPERTS = {
    **ATTENTION,
    "ffn_gate_inp": (2, 256),
    "ffn_up_exps": (2, 2, 256),
    "ffn_gate_exps": (2, 2, 256),
    "ffn_down_exps": (2, 2, 512),
}
VALUES = {"attn_v": (2, 256), "attn_output": (2, 256)}
UNEVEN = {name: (*shape[:-1], shape[-1] // 256 * 288) for name, shape in DENSE.items() if len(shape) > 1}

MODELS = {
    "llama": ("llama", DENSE, {"blocks": 8, "attention.head_count_kv": 2}),
    "llama whose heads share": ("llama", DENSE, {"blocks": 17, "attention.head_count_kv": 1}),
    "llama with a tied output": ("llama", DENSE, {"blocks": 2, "tied": True}),
    "llama of 70B": ("llama", VALUES, {"blocks": 80, "attention.head_count_kv": 1}),
    "llama of 80 blocks whose heads do not share": ("llama", VALUES, {"blocks": 80, "attention.head_count_kv": 4}),
    "qwen2 of 72B": ("qwen2", VALUES, {"blocks": 80, "attention.head_count_kv": 1}),
    "mixtral": ("llama", EXPERTS, {"blocks": 9, "expert_count": 8, "expert_used_count": 2}),
    "four experts": ("llama", EXPERTS, {"blocks": 9, "expert_count": 4, "expert_used_count": 2}),
    "falcon": ("falcon", MERGED, {"blocks": 16, "attention.head_count_kv": 1}),
    "phi3": ("phi3", MERGED, {"blocks": 9}),
    "rows that K types do not fit": ("llama", UNEVEN, {"blocks": 8, "attention.head_count_kv": 1}),
    "rows that nothing fits": ("llama", {**ATTENTION, "attn_q": (2, 250)}, {"blocks": 1}),
}


def chosen(source, name, *, has_importance):
    """What becomes of each tensor here: names to types, and whether one of them wants an importance matrix."""
    types = load_ggml()
    with open_gguf(source) as file:
        layout = read_layout(source, file, types.types_by_number)
    choices = choose_types(
        layout.tensors,
        file_type=FILE_TYPES[name],
        model=model_of(layout),
        types=types.types,
        has_importance=has_importance,
    )
    return {choice.tensor.name: choice.type.name for choice in choices}, any(
        choice.needs_importance for choice in choices
    )


@pytest.mark.parametrize("kind", MODELS)
def test_every_mix_gives_every_tensor_the_type_that_llama_cpp_gives_it(tmp_path, narrow, upstream, kind):
    architecture, block, keys = MODELS[kind]
    source = narrow(tmp_path / "model.gguf", architecture, block, **keys)
    imatrix = write_small_importance(tmp_path / "imatrix.gguf", source)
    cases = [(name, has_importance) for name in FILE_TYPES for has_importance in (False, True)]

    answers = upstream(
        [
            {
                "source": source,
                "target": tmp_path / "never",
                "ftype": FILE_TYPES[name].number,
                "dry_run": True,
                "imatrix": imatrix if has_importance else None,
            }
            for name, has_importance in cases
        ]
    )

    for (name, has_importance), answer in zip(cases, answers, strict=True):
        if answer["failed"]:
            with pytest.raises(InvalidValueError, match="no multiple of 128"):
                chosen(source, name, has_importance=has_importance)
            assert (kind, name) in {("rows that K types do not fit", "Q1_0"), ("rows that nothing fits", "Q1_0")}
            continue
        types, wants = chosen(source, name, has_importance=has_importance)
        assert types == {tensor: kind.upper() for tensor, kind in answer["types"].items()}, (name, has_importance)
        assert has_importance or wants == answer["wants"], name


def test_an_override_takes_the_place_of_the_mix_and_is_what_llama_cpp_makes_of_it(tmp_path, narrow, upstream):
    source = narrow(tmp_path / "model.gguf", "llama", DENSE, blocks=8)
    job = {"source": source, "target": tmp_path / "theirs", "ftype": FILE_TYPES["Q4_K_M"].number}
    (theirs,) = upstream([{**job, "overrides": [["ffn_(up|gate)", 8], [r"blk\.1\.", 14]]}])

    quantize(
        source,
        tmp_path / "ours",
        file_type="Q4_K_M",
        overrides=[("ffn_(up|gate)", "q8_0"), (r"blk\.1\.", "Q6_K")],
    )

    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "ours").tensors}
    assert (types["blk.1.ffn_up.weight"], types["blk.1.attn_q.weight"]) == ("Q8_0", "Q6_K")
    assert not theirs["failed"]
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize(
    ("override", "message"),
    [(("(", "Q8_0"), "give a regular expression"), (("ffn", "Q9"), "give one of F32")],
)
def test_an_override_that_cannot_be_carried_out_is_refused(tmp_path, tiny, override, message):
    with pytest.raises(InvalidValueError, match=message):
        quantize(tiny, tmp_path / "out.gguf", file_type="Q8_0", overrides=[override])
    assert not list(tmp_path.iterdir())


def test_an_override_that_fits_no_tensor_is_refused_with_names_that_it_could_fit(tmp_path, tiny):
    given = [("ffn_down", "Q8_0"), ("ffn_dwn", "Q8_0")]

    with pytest.raises(InvalidValueError, match="'ffn_dwn' is not valid: no tensor has it in its name") as caught:
        quantize(tiny, tmp_path / "out.gguf", file_type="Q4_0", overrides=given)

    assert (caught.value.field, caught.value.value) == ("overrides", "ffn_dwn")
    assert "token_embd.weight, blk.0.attn_k.weight" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_override_that_another_goes_before_everywhere_is_none_that_fits_nothing(tmp_path, tiny):
    given = [("ffn", "Q8_0"), ("ffn_down", "Q4_0")]

    made = quantize(tiny, tmp_path / "out.gguf", file_type="Q4_0", overrides=given)

    assert made.tensor_types["Q8_0"] == 3


def test_in_a_file_without_tensors_no_override_is_at_fault(tmp_path):
    empty = gguf.GGUFWriter(tmp_path / "empty.gguf", "llama")
    empty.add_uint32("llama.block_count", 1)
    empty.write_header_to_file()
    empty.write_kv_data_to_file()
    empty.write_tensors_to_file()
    empty.close()

    made = quantize(tmp_path / "empty.gguf", tmp_path / "out.gguf", file_type="Q8_0", overrides=[("ffn", "Q8_0")])

    assert made.tensor_types == {}
