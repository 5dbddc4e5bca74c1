"""What was converted computes in real llama.cpp what the checkpoint computes in transformers."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from llamatelemetry.quantization import convert
from llamatelemetry.quantization.small_checkpoints import write_small_checkpoint

ROPE = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256, "rope_theta": 10000.0}
CASES = {
    "llama": ("LlamaForCausalLM", {}),
    "llama, biases": ("LlamaForCausalLM", {"attention_bias": True}),
    "llama 3": ("LlamaForCausalLM", {"rope_scaling": ROPE | {"original_max_position_embeddings": 16}}),
    "mistral": ("MistralForCausalLM", {"num_key_value_heads": 1}),
    "qwen2": ("Qwen2ForCausalLM", {"tie_word_embeddings": True}),
    "qwen2, yarn": ("Qwen2ForCausalLM", {"rope_scaling": YARN}),
    "qwen3": ("Qwen3ForCausalLM", {"head_dim": 32}),
    "gemma2": ("Gemma2ForCausalLM", {}),
    "gemma3": ("Gemma3ForCausalLM", {"num_hidden_layers": 7}),
    "phi3": ("Phi3ForCausalLM", {"head_dim": None, "pad_token_id": 0}),
}
A_LETTER = 67
PROMPT = [(number * 37 + 11) % 250 + 3 for number in range(40)]


def log_probabilities(model, tokens):
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([tokens])).logits[0, -1].double(), -1)


def question(tokens, count):
    return (
        "/completion",
        {
            "prompt": tokens,
            "n_predict": 1,
            "n_probs": count,
            "temperature": 0,
            "cache_prompt": False,
            # A letter, because of half a character the server says nothing. What it says is before any bias.
            "logit_bias": [[A_LETTER, 1000.0]],
        },
    )


def differences(answer, expected):
    found = answer["completion_probabilities"][0]["top_logprobs"]
    assert found
    return [abs(each["logprob"] - float(expected[each["id"]])) for each in found]


@pytest.mark.parametrize("case", CASES)
def test_small_models_of_every_family_have_the_logits_of_transformers(tmp_path, ask, case):
    architecture, options = CASES[case]
    folder = write_small_checkpoint(tmp_path / "small", architecture, dtype="F32", **options)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    convert(folder, tmp_path / "out.gguf", file_type="F32")

    (answer,) = ask(tmp_path / "out.gguf", [question(PROMPT, 100)])

    assert max(differences(answer, log_probabilities(model, PROMPT))) < 2e-2


def test_smollm2_has_the_logits_the_tokens_and_the_template_of_transformers(tmp_path, ask, smollm):
    folder, model, tokenizer = smollm
    convert(folder, tmp_path / "out.gguf", file_type="BF16")
    text = "The capital of France is"
    messages = [{"role": "user", "content": "Name a city."}]
    hard = "3 33 333 3333 Größe naïve 🦙🦙 don't we'll\n\n\t\t x = {'a': [1, 2]}  <|im_end|>"
    tokens = tokenizer(text)["input_ids"]

    told, rendered, answer, tokenized = ask(
        tmp_path / "out.gguf",
        [
            ("/completion", {"prompt": text, "n_predict": 12, "temperature": 0, "ignore_eos": True}),
            ("/apply-template", {"messages": messages}),
            question(tokens, 20),
            ("/tokenize", {"content": hard, "add_special": True}),
        ],
    )

    with torch.no_grad():
        written = model.generate(torch.tensor([tokens]), max_new_tokens=12, do_sample=False, min_new_tokens=12)
    assert told["content"] == tokenizer.decode(written[0][len(tokens) :])
    assert rendered["prompt"] == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert max(differences(answer, log_probabilities(model, tokens))) < 5e-2
    assert tokenized["tokens"] == tokenizer(hard)["input_ids"]
