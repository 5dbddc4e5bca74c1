"""What llama.cpp adds up of each weight's input is what a hook on transformers' layers adds up."""

from __future__ import annotations

import pytest
import torch

from llamatelemetry.quantization import ImportanceCollector, convert, measure_importance, read_importance, read_text
from llamatelemetry.quantization.evaluation.texts import CALIBRATION_TEXT, windows_of

CONTEXT = 64
WINDOWS = 2
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.o_proj": "attn_output",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def test_importance_is_that_of_transformers(smollm, tmp_path):
    folder, model, tokenizer = smollm
    convert(folder, tmp_path / "f32.gguf", file_type="F32")

    measured = measure_importance(
        tmp_path / "f32.gguf", tmp_path / "ours.gguf", context=CONTEXT, windows=WINDOWS, threads=1
    )

    collector = ImportanceCollector()
    hooks = [
        layer.get_submodule(module).register_forward_pre_hook(
            lambda _, inputs, name=f"blk.{number}.{part}.weight": collector.add(name, inputs[0][0])
        )
        for number, layer in enumerate(model.model.layers)
        for module, part in NAMES.items()
    ]
    text = read_text(None, CALIBRATION_TEXT)
    tokens = tokenizer(text.content, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        for window in windows_of(text, tokens, context=CONTEXT, begins_with=None, most=WINDOWS):
            model(torch.tensor([window.tokens]))
    for hook in hooks:
        hook.remove()
    wanted = read_importance(collector.write(tmp_path / "theirs.gguf", dataset="same"))
    assert len(wanted.entries) == 4 * 30
    for name, values in wanted.entries.items():
        found = measured.entries[name]
        # llama.cpp's cache is in F16; columns that hardly matter differ by more than those that do.
        assert found == pytest.approx(values, rel=0.05, abs=0.01 * float(values.mean())), name
