"""What instrumenting puts in place goes again without a trace, whoever else has a hand in it, and whenever."""

from __future__ import annotations

import functools
import gc
import importlib
import itertools
import json
import subprocess
import sys
import tracemalloc
from collections import Counter

import pytest
import torch
import transformers
import wrapt
from opentelemetry import context as otel_context
from opentelemetry.instrumentation.utils import suppress_instrumentation, unwrap

from llamatelemetry.transformers.asked import PIPELINES
from llamatelemetry.transformers.batching_observer import MANAGER, REQUESTS, SCHEDULER
from llamatelemetry.transformers.generate_observer import GENERATION
from llamatelemetry.transformers.instrumentor import TransformersInstrumentor

PROMPT = torch.tensor([[11, 12, 13]])
MODULES = (GENERATION, REQUESTS, SCHEDULER, MANAGER, *PIPELINES)
UTIL_GENAI_KEY = "opentelemetry.genai.client.inference.context"


def held():
    """Everything that the classes of the modules hold, by class and name."""
    found = {}
    for module in map(importlib.import_module, MODULES):
        owners = [module, *(value for value in vars(module).values() if isinstance(value, type))]
        for owner in owners:
            found.update(((owner, name), value) for name, value in vars(owner).items())
    for owner in (transformers.WhisperForConditionalGeneration, transformers.RagTokenForGeneration):
        found[owner, "generate"] = vars(owner).get("generate")
    return found


def changed(before):
    """Names whose value is another object than before, or that are new or gone."""
    after, missing = held(), object()
    keys = before.keys() | after.keys()
    return {f"{owner.__name__}.{name}" for owner, name in keys if is_other(before, after, (owner, name), missing)}


def is_other(before, after, key, missing):
    # Python makes these when it likes.
    return key[1] not in {"__dict__", "__weakref__", "__annotations__", "__slotnames__"} and (
        before.get(key, missing) is not after.get(key, missing)
    )


@pytest.fixture
def plain(traced):
    """Instrumented and not any more: what tests begin with."""
    TransformersInstrumentor().uninstrument()
    return held()


def test_everything_is_the_very_object_that_it_was(plain, traced):
    traced.instrument()
    put = changed(plain)
    assert {"GenerationMixin.generate", "TextGenerationPipeline._forward", "RequestState.fork"} <= put
    TransformersInstrumentor().uninstrument()
    assert changed(plain) == set()


def test_a_thousand_times_leave_nothing(plain, traced, make_tiny):
    model = make_tiny()

    def times(count):
        for number in range(count):
            traced.instrument()
            if number % 4 == 0:
                model.generate(PROMPT, max_new_tokens=1)
            TransformersInstrumentor().uninstrument()
        traced._exporter.clear()

    def objects():
        gc.collect()
        return Counter(type(one).__name__ for one in gc.get_objects())

    finders = list(sys.meta_path)
    times(40)  # What is made once.
    before = objects()
    times(860)
    more = objects() - before
    assert {name: count for name, count in more.items() if count > 200} == {}, "as many as there were generations"
    tracemalloc.start()
    try:
        times(20)
        gc.collect()
        begun, _ = tracemalloc.get_traced_memory()
        times(80)
        gc.collect()
        ended, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert ended - begun < 80 * 1024, "a kilobyte each time"
    assert sys.meta_path == finders
    assert changed(plain) == set()
    traced.instrument()
    model.generate(PROMPT, max_new_tokens=2)
    assert traced.tokens() == [(3, 2, "length")]


THEIRS = ((transformers.GenerationMixin, "generate"), (transformers.TextGenerationPipeline, "_forward"))


class Wrapping:
    """An instrumentor of somebody else as OpenTelemetry's are: it takes off what is on top, if that is a wrapper."""

    def __init__(self):
        self.calls = 0

    def instrument(self):
        def wrapper(wrapped, instance, args, kwargs):
            self.calls += 1
            return wrapped(*args, **kwargs)

        for owner, name in THEIRS:
            wrapt.wrap_function_wrapper(owner, name, wrapper)

    def uninstrument(self):
        for owner, name in THEIRS:
            unwrap(owner, name)


class Keeping:
    """Another, that keeps what was there and puts it back, whatever is there by then."""

    def __init__(self):
        self.calls = 0

    def instrument(self):
        self._kept = [(owner, name, vars(owner)[name]) for owner, name in THEIRS]
        for owner, name, kept in self._kept:
            setattr(owner, name, self._counting(kept))

    def _counting(self, kept):
        @functools.wraps(kept)
        def counting(*args, **kwargs):
            self.calls += 1
            return kept(*args, **kwargs)

        return counting

    def uninstrument(self):
        for owner, name, kept in self._kept:
            setattr(owner, name, kept)


@pytest.mark.parametrize(("first_on", "first_off"), [*itertools.product(["ours", "theirs"], repeat=2)])
@pytest.mark.parametrize("kind", [Wrapping, Keeping])
def test_two_instrumentors_at_once_see_every_call_and_leave_in_any_order(  # noqa: PLR0917 - fixtures and parameters
    plain, traced, tiny, kind, first_on, first_off
):
    model, tokenizer = tiny
    ask = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
    theirs, ours = kind(), TransformersInstrumentor()
    on = {"ours": traced.instrument, "theirs": theirs.instrument}
    off = {"ours": ours.uninstrument, "theirs": theirs.uninstrument}

    def call():
        """How often each of them hears of two calls, one of which is a pipeline's."""
        traced.clear()
        theirs.calls = 0
        model.generate(PROMPT, max_new_tokens=2)
        ask("dog", max_new_tokens=2)
        return len(traced.inferences()), theirs.calls

    for name in sorted(on, key=lambda name: name != first_on):
        on[name]()
    assert call() == (2, 3)
    off[first_off]()
    if first_off == "ours":
        assert call() == (0, 3)
    elif first_on == "ours":
        assert call() == (2, 0)
    else:  # Ours is over theirs: one cannot take itself off under it, the other takes ours off as well.
        assert call() == ((2, 3) if kind is Wrapping else (0, 0))
    off["theirs" if first_off == "ours" else "ours"]()
    if kind is Wrapping and first_on == first_off == "theirs":
        assert call() == (0, 3)
        theirs.uninstrument()
    assert call() == (0, 0)
    assert changed(plain) == set()


def test_being_instrumented_twice_is_being_instrumented_once(traced, make_tiny, caplog):
    TransformersInstrumentor().instrument()  # OpenTelemetry says that it is already.
    make_tiny().generate(PROMPT, max_new_tokens=2)
    assert len(traced.inferences()) == 1
    TransformersInstrumentor().uninstrument()
    TransformersInstrumentor().uninstrument()
    traced.instrument()


def test_a_class_that_was_made_meanwhile_is_as_its_author_made_it(plain, traced, make_tiny):
    traced.instrument()

    class Own(transformers.LlamaForCausalLM):
        def generate(self, *args, **kwargs):
            return super().generate(*args, **kwargs)

    theirs = Own.generate.__wrapped__
    Own(make_tiny().config).generate(PROMPT, max_new_tokens=1)
    TransformersInstrumentor().uninstrument()
    assert vars(Own)["generate"] is theirs
    assert len(traced.inferences()) == 1


def test_what_generates_while_instrumenting_ends_comes_to_its_end(plain, traced, make_tiny):
    traced.instrument()
    model = make_tiny()
    model.register_forward_pre_hook(lambda *_: TransformersInstrumentor().uninstrument())
    assert model.generate(PROMPT, max_new_tokens=3).shape == (1, 6)
    assert changed(plain) == set()


def test_what_suppresses_all_instrumentations_suppresses_this_one(traced, make_tiny):
    with suppress_instrumentation():
        make_tiny().generate(PROMPT, max_new_tokens=1)
    assert traced.spans() == []


def test_what_another_instrumentation_has_a_span_for_has_it_already(traced, make_tiny):
    token = otel_context.attach(otel_context.set_value(UTIL_GENAI_KEY, object()))
    try:
        make_tiny().generate(PROMPT, max_new_tokens=1)
    finally:
        otel_context.detach(token)
    assert traced.spans() == []


CHILD = """
import json
import sys

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))


FIRST
loaded = set(sys.modules)
from llamatelemetry.transformers.instrumentor import TransformersInstrumentor

instrumentor = TransformersInstrumentor()
instrumentor.instrument(tracer_provider=provider)
assert not [name for name in set(sys.modules) - loaded if name.startswith(("torch", "transformers"))]
import torch
import transformers

torch.set_num_threads(1)
config = transformers.LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2, bos_token_id=None, eos_token_id=None, pad_token_id=0,
)
model = transformers.LlamaForCausalLM(config)
model.generate(input_ids=torch.tensor([[1, 2, 3]]), max_new_tokens=2)
instrumentor.flush()
seen = sum("gen_ai.operation.name" in span.attributes for span in spans.get_finished_spans())
instrumentor.uninstrument()
model.generate(input_ids=torch.tensor([[1, 2, 3]]), max_new_tokens=2)
ours = [
    f"{owner.__name__}.{name}"
    for owner in (
        transformers.GenerationMixin, transformers.TextGenerationPipeline, transformers.WhisperForConditionalGeneration
    )
    for name, value in vars(owner).items()
    if hasattr(value, "_llamatelemetry_patch")
]
finders = [type(finder).__name__ for finder in sys.meta_path if type(finder).__module__.startswith("llamatelemetry")]
print(json.dumps([seen, ours, finders]))
"""


@pytest.mark.parametrize(
    "first",
    [
        "",
        # Both import lazily what is named.
        "import transformers, transformers.generation.utils",
        "from transformers import LlamaForCausalLM, TextGenerationPipeline, WhisperForConditionalGeneration",
    ],
    ids=["ours first", "half of theirs first", "theirs first"],
)
def test_it_does_not_matter_who_is_imported_first(first):
    script = CHILD.replace("FIRST", first)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [1, [], []]
