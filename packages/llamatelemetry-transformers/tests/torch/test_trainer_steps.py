"""A stage of a pipeline around transformers' own trainer, which trains a small random model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import llamatelemetry as lt
from llamatelemetry.testing.semconv import assert_valid_spans

STEP = "llamatelemetry.pipeline.step"
SENTENCE = torch.arange(8) % 7


@pytest.fixture
def spans():
    exporter = InMemorySpanExporter()
    lt.init(exporters="none", span_processors=[SimpleSpanProcessor(exporter)], gpu=False)
    yield exporter
    lt.shutdown()


def train(folder: Path, steps: int, *, logging_steps: int) -> Any:
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=2,
        learning_rate=0.05,
        logging_steps=logging_steps,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    dataset = [{"input_ids": SENTENCE, "labels": SENTENCE}] * 8
    with lt.PipelineTracer("road").stage("finetune") as stage:
        Trainer(
            LlamaForCausalLM(config), arguments, train_dataset=dataset, callbacks=[stage.trainer_callback()]
        ).train()
    return stage


def test_every_step_of_a_real_trainer_is_told_with_its_loss(spans, tmp_path):
    stage = train(tmp_path, 6, logging_steps=1)
    (span,) = [each for each in spans.get_finished_spans() if each.name == "finetune"]
    assert_valid_spans(spans.get_finished_spans(), ["gen_ai"])
    assert [event.attributes[f"{STEP}.number"] for event in span.events] == [1, 2, 3, 4, 5, 6]
    losses = [event.attributes[f"{STEP}.loss"] for event in span.events]
    assert losses[-1] < losses[0], "it learns"
    assert all(event.attributes[f"{STEP}.learning_rate"] > 0 for event in span.events)
    assert all(event.attributes["grad_norm"] > 0 for event in span.events)
    assert (stage.steps.count, stage.steps.loss_last) == (6, losses[-1])


def test_steps_that_it_does_not_log_are_steps_too(spans, tmp_path):
    train(tmp_path, 4, logging_steps=2)
    (span,) = [each for each in spans.get_finished_spans() if each.name == "finetune"]
    assert [f"{STEP}.loss" in event.attributes for event in span.events] == [False, True, False, True]
