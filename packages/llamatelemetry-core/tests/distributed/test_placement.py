"""Placements follow llama.cpp's rules. The figures it reported itself are marked as such."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.distributed.memory_terms import Part, Term, cpu_terms, gpu_terms, total
from llamatelemetry.distributed.placement import GPURoom, Placement, Wish, place
from llamatelemetry.distributed.placement_text import placement_lines
from llamatelemetry.distributed.planning import Refusal, plan
from llamatelemetry.distributed.serving import Serving
from llamatelemetry.distributed.shape import LayerShape, ModelShape
from llamatelemetry.errors import InvalidValueError

MIB = 2**20
GIB = 2**30


def a_shape(layers: int = 4, *, layer: LayerShape | None = None, **changes: Any) -> ModelShape:
    """A small model whose layers are all alike."""
    each = layer or LayerShape(weights_bytes=10 * MIB, key_elements=128, value_elements=128)
    sizes: dict[str, Any] = {
        "name": "toy",
        "path": Path("/models/toy.gguf"),
        "format": "gguf",
        "architecture": "llama",
        "layers": (each,) * layers,
        "input_bytes": 30 * MIB,
        "output_bytes": 20 * MIB,
        "tied_output": False,
        "embedding_length": 256,
        "vocabulary_size": 1000,
        "head_count": 4,
        "attention_length": 256,
        "feed_forward_length": 768,
    }
    return ModelShape(**{**sizes, **changes})


def llama_8b() -> ModelShape:
    """Llama 3.1 8B in Q4_K_M, by its published sizes: 4.85 bits a weight, 4096 wide, 8 KV heads of 128."""
    return a_shape(
        32,
        layer=LayerShape(weights_bytes=132_000_000, key_elements=1024, value_elements=1024),
        name="Llama 3.1 8B",
        input_bytes=295_000_000,
        output_bytes=431_000_000,
        embedding_length=4096,
        vocabulary_size=128_256,
        head_count=32,
        attention_length=4096,
        feed_forward_length=14_336,
    )


def rooms(*gibibytes: float) -> tuple[GPURoom, ...]:
    """GPUs with so much free."""
    return tuple(
        GPURoom(index=index, name="Tesla T4", uuid=f"GPU-{index}", free_bytes=int(amount * GIB))
        for index, amount in enumerate(gibibytes)
    )


SERVING = Serving(context_length=4096, slots=4)


def wish(shape: ModelShape | None = None, *gibibytes: float, **changes: Any) -> Wish:
    values: dict[str, Any] = {"serving": SERVING, "gpus": rooms(*(gibibytes or (15, 15))), **changes}
    return Wish(shape=shape or llama_8b(), **values)


def planned(wanted: Wish) -> Placement:
    found = plan(wanted)
    assert isinstance(found, Placement)
    return found


def refused(wanted: Wish) -> Refusal:
    found = plan(wanted)
    assert isinstance(found, Refusal)
    return found


def sizes(terms: tuple[Term, ...]) -> dict[str, int]:
    return {term.name: term.bytes for term in terms}


def test_a_model_that_fits_one_gpu_goes_there_and_leaves_the_other_free() -> None:
    placement = planned(wish())
    assert [(share.gpu.index, share.layers) for share in placement.shares] == [(0, 33)]
    assert [gpu.index for gpu in placement.free] == [1]
    assert (placement.gpu_layers, placement.tensor_split) == (33, (33,))


def test_the_gpu_with_the_most_room_is_taken_first() -> None:
    assert [share.gpu.index for share in planned(wish(None, 12, 15)).shares] == [1]


def test_a_model_that_needs_several_gpus_goes_to_some_that_are_near_each_other() -> None:
    wanted = wish(
        *(None, 15, 14, 14, 15),
        serving=Serving(context_length=32_768, slots=4),
        islands=(("GPU-0", "GPU-1"), ("GPU-2", "GPU-3")),
    )
    assert [share.gpu.index for share in planned(replace(wanted, islands=())).shares] == [0, 3]
    assert [share.gpu.index for share in planned(wanted).shares] in ([0, 1], [2, 3])
    assert [share.gpu.index for share in planned(replace(wanted, leave=frozenset({1}))).shares] == [2, 3]
    # No two that are near have the room, so it is two that are not.
    narrow = replace(wanted, gpus=rooms(15, 5, 5, 15))
    assert [share.gpu.index for share in planned(narrow).shares] == [0, 3]


def test_a_gpu_can_be_left_for_other_work_or_all_be_used() -> None:
    assert [share.gpu.index for share in planned(wish(None, 12, 15, leave=frozenset({1}))).shares] == [0]
    assert planned(wish(spread=True)).tensor_split == (17, 16)


def test_a_model_too_large_for_one_gpu_is_cut_so_that_the_fullest_keeps_the_most() -> None:
    wanted = wish(serving=Serving(context_length=32_768, slots=4))
    placement = planned(wanted)
    assert len(placement.shares) == 2
    assert sum(placement.tensor_split) == 33
    first, second = placement.shares
    assert (first.part.first, first.part.stop) == (0, second.part.first)
    assert (second.part.stop, second.part.output) == (32, True)
    for cut in range(1, 33):
        left = [
            share.gpu.free_bytes - total(gpu_terms(wanted.shape, wanted.serving, part))
            for share, part in zip(
                placement.shares,
                (
                    Part(first=0, stop=cut, output=False, copies=4),
                    Part(first=cut, stop=32, output=True, copies=4, leads=False),
                ),
                strict=True,
            )
        ]
        assert min(left) <= (placement.headroom_bytes or 0) + MIB


def test_as_many_layers_as_fit_go_on_the_gpu_the_last_ones_and_the_output_first() -> None:
    placement = planned(wish(None, 6, gpu_layers="auto"))
    [share] = placement.shares
    assert 1 < placement.gpu_layers < 33
    assert (share.part.stop, share.part.output) == (32, True)
    assert share.part.first == 33 - placement.gpu_layers
    more = wish(None, 6, gpu_layers=placement.gpu_layers + 1)
    assert place(more).short_bytes > 0
    assert sizes(placement.cpu)["weights"] == share.part.first * 132_000_000


def test_a_layer_that_stays_on_the_cpu_is_lent_to_the_first_gpu() -> None:
    shape = replace(a_shape(6), layers=tuple(LayerShape(weights_bytes=size * MIB) for size in (7, 9, 8, 1, 1, 1)))
    placement = place(wish(shape, 0.95, 1.2, gpu_layers=4, spread=True, serving=replace(SERVING, reserve_bytes=0)))
    lent = [sizes(share.terms).get("layer lent by the CPU") for share in placement.shares]
    assert lent[0] == 9 * MIB
    assert set(lent[1:]) <= {None}


def test_without_layers_on_gpus_nothing_is_needed_of_them_and_none_is_visible() -> None:
    for wanted in (wish(gpu_layers=0), wish(leave=frozenset({0, 1})), wish(gpus=())):
        placement = planned(wanted)
        assert placement.shares == ()
        assert placement.headroom_bytes is None
        assert dict(placement.environment) == {"CUDA_VISIBLE_DEVICES": ""}
        assert total(placement.cpu) > llama_8b().weights_bytes


def test_one_mig_instance_is_all_a_cuda_program_sees() -> None:
    gpus = tuple(
        GPURoom(index=0, name="A100 MIG", uuid=f"MIG-{number}", free_bytes=free * GIB, mig=True)
        for number, free in enumerate((9, 19, 9))
    )
    placement = place(wish(gpus=gpus, serving=Serving(context_length=32_768, slots=8)))
    assert [share.gpu.uuid for share in placement.shares] == ["MIG-1"]
    assert placement.environment["CUDA_VISIBLE_DEVICES"] == "MIG-1"


def test_the_kv_cache_is_one_context_for_each_slot_and_layer() -> None:
    terms = sizes(planned(wish()).shares[0].terms)
    assert terms["KV cache"] == 4 * 4096 * 32 * (1024 + 1024) * 2


def test_layers_with_windows_keep_a_window_and_what_is_computed_at_once() -> None:
    layers = (LayerShape(weights_bytes=MIB, key_elements=256, value_elements=256, window=512),) * 5
    shape = a_shape(layers=1, layer=LayerShape(weights_bytes=MIB, key_elements=256, value_elements=256))
    shape = replace(shape, layers=(*layers, *shape.layers))
    terms = sizes(planned(wish(shape)).shares[0].terms)
    assert terms["KV cache"] == 4 * 4096 * 1 * 512 * 2
    assert terms["KV cache, windows of 512"] == 4 * 1024 * 5 * 512 * 2
    shared = sizes(planned(wish(shape, serving=replace(SERVING, unified=True))).shares[0].terms)
    assert shared["KV cache, windows of 512"] == (4 * 512 + 512) * 5 * 512 * 2


def test_a_recurrent_layer_keeps_a_state_for_each_slot_whatever_the_context() -> None:
    shape = a_shape(layer=LayerShape(weights_bytes=MIB, state_bytes=1000))
    terms = sizes(planned(wish(shape)).shares[0].terms)
    assert terms["states"] == 4 * 4 * 1000
    assert "KV cache" not in terms
    assert "attention masks" not in terms


def test_tied_embeddings_are_there_twice_once_for_input_and_once_for_output() -> None:
    shape = a_shape(tied_output=True, output_bytes=1000)
    placement = planned(wish(shape))
    assert sizes(placement.shares[0].terms)["output weights"] == 30 * MIB + 1000
    assert sizes(placement.cpu)["input weights"] == 30 * MIB
    assert sizes(planned(wish(shape, gpu_layers=0)).cpu)["output weights"] == 1000


def test_quantized_caches_take_the_bytes_of_their_blocks() -> None:
    serving = replace(SERVING, key_type="q8_0", value_type="q4_0")
    terms = sizes(planned(wish(serving=serving)).shares[0].terms)
    assert terms["KV cache"] == 4 * 4096 * 32 * (1024 // 32 * 34 + 1024 // 32 * 18)


def test_rows_that_do_not_come_in_blocks_are_refused_by_name() -> None:
    shape = a_shape(layer=LayerShape(weights_bytes=MIB, key_elements=80, value_elements=80))
    with pytest.raises(InvalidValueError, match="rows of 80 numbers") as caught:
        plan(wish(shape, serving=replace(SERVING, key_type="q8_0")))
    assert caught.value.field == "key_type"


def test_without_flash_attention_all_scores_are_there() -> None:
    serving = Serving(context_length=8192, flash_attention=False)
    terms = gpu_terms(llama_8b(), serving, Part(first=0, stop=32, output=True))
    widest = next(term for term in terms if term.name.startswith("widest step"))
    assert widest.name == "widest step: attention scores"
    assert widest.bytes >= 512 * 8192 * 32 * 4


def test_all_logits_are_reserved_for_only_where_they_are_wanted() -> None:
    serving = Serving(context_length=8192, logit_rows=512)
    terms = sizes(gpu_terms(llama_8b(), serving, Part(first=0, stop=32, output=True)))
    assert terms["widest step: logits"] == 512 * 128_256 * 4


def test_inputs_are_there_four_times_where_gpus_take_turns_and_once_where_they_do_not() -> None:
    masks = "attention masks"
    one, two = planned(wish()), planned(wish(spread=True))
    assert sizes(two.shares[0].terms)[masks] == 4 * sizes(one.shares[0].terms)[masks]
    some = place(wish(None, 3, 3, gpu_layers=20))
    assert sizes(some.shares[0].terms)[masks] == sizes(one.shares[0].terms)[masks]


def test_what_is_reserved_is_a_term_like_the_others() -> None:
    plenty, none = (
        planned(wish(serving=replace(SERVING, reserve_bytes=reserve))).shares[0] for reserve in (2 * GIB, 0)
    )
    assert plenty.needs_bytes - none.needs_bytes == 2 * GIB
    assert plenty.needs_bytes + plenty.headroom_bytes == 15 * GIB
    assert "reserve" not in sizes(none.terms)


def test_the_command_says_what_the_plan_says() -> None:
    placement = planned(wish(serving=Serving(context_length=32_768, slots=4)))
    split = ",".join(map(str, placement.tensor_split))
    assert " ".join(placement.command) == (
        "llama-server --model /models/toy.gguf --ctx-size 131072 --parallel 4 --no-kv-unified --n-gpu-layers 33 "
        f"--split-mode layer --tensor-split {split} --flash-attn on --cache-type-k f16 --cache-type-v f16 "
        "--batch-size 2048 --ubatch-size 512"
    )
    assert dict(placement.environment) == {"CUDA_VISIBLE_DEVICES": "GPU-0,GPU-1"}
    alone = planned(wish(serving=replace(SERVING, unified=True, value_type="q8_0")))
    assert "--kv-unified --n-gpu-layers 33 --split-mode none --main-gpu 0" in " ".join(alone.command)
    assert "--cache-type-v q8_0" in " ".join(alone.command)


def test_gpus_without_a_uuid_are_named_by_number_as_nvidia_smi_counts() -> None:
    gpus = tuple(GPURoom(index=index, free_bytes=15 * GIB) for index in (2, 3))
    placement = planned(wish(gpus=gpus, leave=frozenset({2})))
    assert dict(placement.environment) == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "3"}


def test_a_model_that_is_no_gguf_file_has_a_plan_and_no_command() -> None:
    assert planned(wish(a_shape(format="huggingface"))).command == ()


@pytest.mark.parametrize("layers", [-1, 34, 1000])
def test_more_layers_than_there_are_cannot_be_asked_for(layers: int) -> None:
    with pytest.raises(InvalidValueError, match="32 layers and its output: give 0 to 33") as caught:
        wish(gpu_layers=layers)
    assert caught.value.field == "gpu_layers"


def test_a_gpu_that_is_not_there_cannot_be_left() -> None:
    with pytest.raises(InvalidValueError, match="there are: 0, 1"):
        wish(leave=frozenset({2}))


def test_a_refusal_says_by_how_much_and_the_ways_out_are_true() -> None:
    wanted = wish(None, 14.6, 14.6, serving=Serving(context_length=32_768, slots=8))
    refusal = refused(wanted)
    missing = [-share.headroom_bytes for share in refusal.attempt.shares]
    assert refusal.short_bytes == sum(missing)
    assert min(missing) > 0
    ways = {way.arguments[0]: way for way in refusal.ways_out}
    assert list(ways) == ["--kv", "--slots", "--ctx", "--gpu-layers"]
    slots, length = int(ways["--slots"].arguments[1]), int(ways["--ctx"].arguments[1])
    assert planned(wish(None, 14.6, 14.6, serving=Serving(context_length=32_768, slots=slots)))
    assert refused(wish(None, 14.6, 14.6, serving=Serving(context_length=32_768, slots=slots + 1)))
    assert planned(wish(None, 14.6, 14.6, serving=Serving(context_length=length, slots=8)))
    assert refused(wish(None, 14.6, 14.6, serving=Serving(context_length=length + 256, slots=8)))
    kind = ways["--kv"].arguments[1]
    smaller = replace(wanted, serving=replace(wanted.serving, key_type=kind, value_type=kind))
    assert planned(smaller).headroom_bytes == ways["--kv"].headroom_bytes
    assert planned(replace(wanted, gpu_layers="auto")).gpu_layers == int(ways["--gpu-layers"].change.split()[0])


def test_where_the_weights_alone_are_too_much_only_fewer_layers_are_offered() -> None:
    refusal = refused(wish(None, 4))
    assert [way.arguments for way in refusal.ways_out] == [("--gpu-layers", "auto")]
    refusal = refused(wish(None, 0.5))
    assert refusal.ways_out[0].change == "everything on the CPU: much slower"
    assert refusal.ways_out[0].headroom_bytes is None


def test_a_gpu_that_was_left_out_is_a_way_out() -> None:
    refusal = refused(wish(None, 6, 15, leave=frozenset({1}), serving=Serving(context_length=32_768)))
    assert "all GPUs: 1 left out no more" in [way.change for way in refusal.ways_out]


def test_a_cache_that_cannot_be_made_smaller_is_not_offered_as_smaller() -> None:
    odd = a_shape(layer=LayerShape(weights_bytes=MIB, key_elements=80, value_elements=80))
    serving = Serving(context_length=131_072, slots=64)
    for wanted in (
        wish(odd, 2, serving=serving),
        wish(None, 8, serving=replace(serving, key_type="q4_0", value_type="q4_0")),
        wish(None, 8, serving=replace(serving, flash_attention=False)),
    ):
        assert "--kv" not in {argument for way in refused(wanted).ways_out for argument in way.arguments}


layer_shapes = st.builds(
    LayerShape,
    weights_bytes=st.integers(0, 200 * MIB),
    key_elements=st.integers(0, 16).map((64).__mul__),
    value_elements=st.integers(0, 16).map((64).__mul__),
    window=st.none() | st.integers(1, 5000),
    state_bytes=st.integers(0, MIB),
)
model_shapes = st.builds(
    a_shape,
    layers=st.just(0),
    tied_output=st.booleans(),
    experts_used=st.integers(1, 8),
).flatmap(
    lambda shape: st.lists(layer_shapes, min_size=1, max_size=12).map(
        lambda layers: replace(shape, layers=tuple(layers))
    )
)
servings = st.builds(
    Serving,
    context_length=st.integers(1, 20_000),
    slots=st.integers(1, 8),
    unified=st.booleans(),
    flash_attention=st.booleans(),
    reserve_bytes=st.integers(0, GIB),
)
wishes = st.builds(
    Wish,
    shape=model_shapes,
    serving=servings,
    gpus=st.lists(st.floats(0, 8), min_size=1, max_size=4).map(lambda sizes: rooms(*sizes)),
    gpu_layers=st.sampled_from(["all", "auto"]),
    spread=st.booleans(),
)


@given(wishes)
def test_every_layer_has_one_place_and_every_weight_is_counted_once(wanted: Wish) -> None:
    found = plan(wanted)
    placement = found if isinstance(found, Placement) else found.attempt
    layers = len(wanted.shape.layers)
    start = layers + 1 - placement.gpu_layers
    for share in placement.shares:
        assert share.part.first == min(start, layers)
        start += share.layers
    assert start == layers + 1
    assert sum(placement.tensor_split) == placement.gpu_layers
    held = sum(
        term.bytes
        for terms in (placement.cpu, *(share.terms for share in placement.shares))
        for term in terms
        if term.name.endswith("weights")
    )
    again = wanted.shape.input_bytes if wanted.shape.tied_output and placement.gpu_layers else 0
    assert held == wanted.shape.weights_bytes + again
    assert isinstance(found, Refusal) == bool(placement.short_bytes)


@given(wishes, st.integers(0, 4))
def test_more_memory_never_fits_less(wanted: Wish, more: int) -> None:
    larger = tuple(replace(gpu, free_bytes=gpu.free_bytes + more * GIB) for gpu in wanted.gpus)
    before, after = place(wanted), place(replace(wanted, gpus=larger))
    assert after.short_bytes <= before.short_bytes
    assert after.gpu_layers >= before.gpu_layers


def test_the_cpu_keeps_the_input_whatever_the_gpus_have() -> None:
    terms = cpu_terms(llama_8b(), SERVING, Part(first=0, stop=0, output=False, on_cpu=True))
    assert sizes(terms)["input weights"] == 295_000_000
    assert sizes(terms)["logits to sample from"] == 4 * 128_256 * 4


TOO_LONG = (
    "Note: the model was trained for 8192 tokens: llama-server lets a slot have no more of the 16384 that are "
    "planned for."
)


@pytest.mark.parametrize(
    ("trained", "asked", "notes"), [(8192, 8192, []), (None, 16_384, []), (8192, 16_384, [TOO_LONG])]
)
def test_a_context_longer_than_the_model_was_trained_for_is_said_to_be(
    trained: int | None, asked: int, notes: list[str]
) -> None:
    placement = planned(wish(a_shape(context_length=trained), serving=Serving(context_length=asked)))
    assert [line for line in placement_lines(placement) if line.startswith("Note: ")] == notes
