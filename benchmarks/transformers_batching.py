"""Thirty-two requests at once to SmolLM2 under transformers, in one batch, against ``generate`` one by one.

Run: python benchmarks/transformers_batching.py [--json] [--requests N] [--tokens N]

Needs torch. Both ways run the same model object in this process, on the same CPU threads, with
greedy sampling. The tokens must be the same, the pages must add up, and an answer that is cancelled
must give its pages back. Batched are the requests as callers send them: through the engine, with
telemetry on.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from report import Row, report

import llamatelemetry
from llamatelemetry import InferenceEngine, InferenceRequest, InferenceResult, SamplingParams
from llamatelemetry.llama.model_files import demo_model
from llamatelemetry.transformers import TransformersBackend

PAGE_SIZE = 16
CONTEXT = 256
REPEATS = 0.995
"""Share of tokens that must be the same: a sum in another order may turn a tie of two logits round."""


Messages = list[dict[str, str]]


def questions_of(count: int) -> list[Messages]:
    """Questions of different lengths; the template puts the same system prompt before each."""
    topics = ("a river", "the sea in winter", "bread", "an old clock that nobody winds", "snow", "a letter")
    return [
        [{"role": "user", "content": f"Write a story about {topics[number % len(topics)]}, and call it {number}."}]
        for number in range(count)
    ]


def one_by_one(model: Any, tokenizer: Any, questions: list[Messages], tokens: int) -> tuple[list[list[int]], float]:
    """The tokens of each answer by ``generate``, and the seconds it took."""
    import torch

    answers = []
    start = time.monotonic()
    for question in questions:
        text = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
        prompt = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        whole = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=tokens, do_sample=False, num_beams=1
        )
        answers.append(whole[0, prompt.shape[1] :].tolist())
    return answers, time.monotonic() - start


def batched(
    engine: InferenceEngine, questions: list[Messages], tokens: int
) -> tuple[list[InferenceResult], float, int]:
    """What the engine makes of all of them at once, the seconds, and the most pages that were in use."""
    greedy = SamplingParams(temperature=0)
    most = 0
    start = time.monotonic()
    with ThreadPoolExecutor(len(questions)) as pool:
        futures = [
            pool.submit(
                engine.generate, InferenceRequest(messages=each, max_tokens=tokens, sampling=greedy, logprobs=0)
            )
            for each in questions
        ]
        while not all(future.done() for future in futures):
            most = max(most, engine.stats().kv_pages_used or 0)
            time.sleep(0.02)
    return [future.result() for future in futures], time.monotonic() - start, most


def cancelled(engine: InferenceEngine, backend: TransformersBackend, questions: list[Messages]) -> tuple[int, float]:
    """Pages that answers held in the middle, and the seconds until all were free once they were left."""
    greedy = SamplingParams(temperature=0)
    streams = [
        engine.stream(InferenceRequest(messages=each, max_tokens=150, sampling=greedy)) for each in questions[:4]
    ]
    for stream in streams:
        next(stream)
    held = _used(backend)
    start = time.monotonic()
    for stream in streams:
        stream.close()
    while _used(backend):
        assert time.monotonic() - start < 30, "pages of cancelled answers are not free"
        time.sleep(0.005)
    return held, time.monotonic() - start


def _used(backend: TransformersBackend) -> int:
    state = backend.kv_state()
    assert state is not None, backend.why_not_batched
    return state.used


def measure(model: Any, tokenizer: Any, count: int, tokens: int) -> list[Row]:
    """Every figure; raises where the two ways disagree or pages do not add up."""
    questions = questions_of(count)
    backend = TransformersBackend(
        model, tokenizer, slots=count, context_length=CONTEXT, page_size=PAGE_SIZE, kv_tokens=count * CONTEXT
    )
    straight, straight_s = one_by_one(model, tokenizer, questions, tokens)
    with InferenceEngine(backend) as engine:
        results, batched_s, most = batched(engine, questions, tokens)
        held, freed_s = cancelled(engine, backend, questions)
        assert engine.stats().kv_pages_used == 0
    ours = [[entry["id"] for entry in result.raw["logprobs"]] for result in results]
    told = sum(len(answer) for answer in straight)
    same = sum(one == other for a, b in zip(ours, straight, strict=True) for one, other in zip(a, b, strict=False))
    assert same >= REPEATS * told, f"{same} of {told} tokens are the same"
    for result in results:
        # The last token is told and not stored.
        stored = (result.input_tokens or 0) + (result.output_tokens or 0) - 1
        assert result.kv_pages == -(-stored // PAGE_SIZE), (result.kv_pages, stored)
    assert 0 < most <= sum(result.kv_pages or 0 for result in results)
    return [
        Row(name="tokens that are the same", value=same, unit="token", baseline=told, budget=f">= {REPEATS:.1%}"),
        Row(name="throughput", value=told / batched_s, unit="token/s", baseline=told / straight_s, budget="ratio > 1"),
        Row(name="pages that requests held", value=sum(result.kv_pages or 0 for result in results), unit="page"),
        Row(name="most pages in use at once, shared ones once", value=most, unit="page"),
        Row(name="prompt tokens found in the cache", value=sum(r.cached_tokens or 0 for r in results), unit="token"),
        Row(name="pages of four answers when they were cancelled", value=held, unit="page"),
        Row(name="until those were free", value=freed_s * 1e3, unit="ms"),
    ]


def main() -> None:
    """Loads SmolLM2, measures and reports."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--model", help="a folder with the model, else the GGUF of the package index")
    given = parser.parse_args()
    path = demo_model()
    where = (given.model,) if given.model else (path.parent,)
    how = {} if given.model else {"gguf_file": path.name}
    model = AutoModelForCausalLM.from_pretrained(*where, **how).eval()
    tokenizer = AutoTokenizer.from_pretrained(*where, **how)
    with tempfile.TemporaryDirectory() as folder:
        llamatelemetry.init(telemetry_dir=folder)
        rows = measure(model, tokenizer, given.requests, given.tokens)
        llamatelemetry.shutdown()
    report(f"{given.requests} requests at once, {given.tokens} tokens each, SmolLM2-135M in float32 on this CPU", rows)


if __name__ == "__main__":
    main()
