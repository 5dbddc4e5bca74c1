from __future__ import annotations

import torch


def test_the_real_model_answers(smollm):
    model, tokenizer = smollm
    messages = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])


def test_the_small_model_is_the_same_each_time_and_does_not_stop_by_itself(make_tiny, tiny_tokenizer):
    ids = tiny_tokenizer("The quick brown fox", return_tensors="pt")["input_ids"]
    answers = [make_tiny().generate(ids, max_new_tokens=40, do_sample=False).tolist() for _ in range(2)]
    assert answers[0] == answers[1]
    assert len(answers[0][0]) == ids.shape[1] + 40


def test_the_small_tokenizer_splits_characters_into_bytes(tiny_tokenizer):
    ids = tiny_tokenizer.encode("é🙂")
    assert len(ids) == 6
    assert tiny_tokenizer.decode(ids) == "é🙂"
