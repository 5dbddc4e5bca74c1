from __future__ import annotations

import pytest

from llamatelemetry.errors import InvalidValueError, ModelFileError
from llamatelemetry.llama.model_files import demo_model
from llamatelemetry.quantization import Budget, SharedLogits, measure_quality, quantize, quantize_dynamic
from llamatelemetry.quantization.testing import write_small_model

TEXT = "A text of a few words, which is all that a model of random weights needs to know. " * 3


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A small model, a text, and a file of what was tried on it."""
    folder = tmp_path_factory.mktemp("dynamic")
    (folder / "text.txt").write_text(TEXT)
    write_small_model(folder / "model.gguf", blocks=2, tied=True)
    return folder


@pytest.fixture
def choose(room):
    """Makes a model of it under a budget."""

    def make(name="made.gguf", **given):
        settings = {"text": room / "text.txt", "context": 64, "windows": 2, "bands": 1, "threads": 1}
        settings |= {"types": ("Q3_K", "Q4_K", "Q6_K", "Q8_0")}
        settings |= {"cache": room / "trials.json"}
        budget = Budget(**{key: given.pop(key) for key in list(given) if key in Budget.__slots__})
        return quantize_dynamic(room / "model.gguf", room / name, budget=budget, **settings | given)

    return make


def test_the_file_is_no_larger_than_the_mix_and_closer_to_its_parent(room, choose):
    uniform = quantize(room / "model.gguf", room / "uniform.gguf", file_type="Q4_K_M", threads=1)
    seen = []

    made = choose(like="Q4_K_M", on_progress=seen.append)

    assert made.model.size_bytes <= uniform.size_bytes
    assert len({group.type for group in made.groups}) > 1
    assert (seen[0].done, seen[-1].done, seen[-1].total) == (1, len(seen), len(seen))
    assert made.trials == len(seen) + 1
    settings = {"text": room / "text.txt", "context": 64, "windows": 2, "threads": 2}
    ours, theirs = (
        measure_quality(room / name, room / "model.gguf", **settings).comparison.divergence.value
        for name in ("made.gguf", "uniform.gguf")
    )
    assert ours < theirs
    # What the result says of the file is what is measured of it.
    assert made.measured == pytest.approx(ours, rel=1e-6)
    assert made.predicted == pytest.approx(sum(group.divergence for group in made.groups))
    assert 0.3 < made.measured / made.predicted < 3


@pytest.mark.parametrize("name", ["model.gguf", "text.txt", "none/made.gguf", "."])
def test_a_place_that_cannot_be_written_is_said_before_anything_is_tried(room, choose, name):
    with pytest.raises((InvalidValueError, ModelFileError), match=r"another file than one to read|cannot be written"):
        choose(name, like="Q4_K_M", cache=None, on_progress=pytest.fail)


def test_what_was_tried_is_not_tried_again(choose):
    choose(like="Q4_K_M")

    assert choose(like="Q4_K_M").trials == 0
    # Another budget takes a trial of what is chosen, and none of the groups.
    assert choose(bits_per_weight=6).trials == 1


def test_the_parent_runs_once_for_all_trials_and_not_at_all_where_its_logits_are(room, choose, tmp_path, children):
    given = {"like": "Q4_K_M", "cache": None, "types": ("Q4_K", "Q6_K")}
    alone = choose(**given)
    assert children == ["model.gguf"] + ["model.gguf"] * alone.trials
    children.clear()

    shared = SharedLogits(tmp_path / "logits")
    again = [choose(shared=shared, **given) for _ in range(2)]
    assert len(children) == 1 + 2 * alone.trials
    for each in again:
        assert (each.groups, each.measured, each.trials) == (alone.groups, alone.measured, alone.trials)


def test_a_larger_budget_is_used_and_leaves_less_to_lose(choose):
    made = [choose(bits_per_weight=bits) for bits in (4, 5, 6.5)]

    for each, bits in zip(made, (4, 5, 6.5), strict=True):
        assert 0.93 * bits < each.model.bits_per_weight <= bits
    measured = [each.measured for each in made]
    assert measured == sorted(measured, reverse=True)


def test_a_budget_of_quality_is_kept_and_not_by_much_too_large_a_file(choose):
    reached = choose(bits_per_weight=5).measured

    made = choose(max_divergence=reached)

    assert made.measured <= reached
    assert made.model.bits_per_weight < 5.5


def test_budgets_that_cannot_be_met_are_refused(choose, room):
    with pytest.raises(InvalidValueError, match="the smallest of these types take"):
        choose(size_bytes=1000, name="none.gguf")
    with pytest.raises(InvalidValueError, match="the largest of these types reach"):
        choose(max_divergence=1e-12, name="none.gguf")
    assert not (room / "none.gguf").exists()


def test_a_model_that_was_quantized_before_is_refused(tmp_path):
    with pytest.raises(InvalidValueError, match="quantized already"):
        quantize_dynamic(demo_model(), tmp_path / "made.gguf", budget=Budget(like="Q4_K_M"))


def test_nothing_is_left_when_it_is_stopped(room, tmp_path):
    def stop(progress):
        raise KeyboardInterrupt

    before = set(room.iterdir())
    with pytest.raises(KeyboardInterrupt):
        quantize_dynamic(
            room / "model.gguf",
            tmp_path / "made.gguf",
            budget=Budget(like="Q4_0"),
            text=room / "text.txt",
            context=64,
            bands=1,
            threads=1,
            on_progress=stop,
        )
    assert list(tmp_path.iterdir()) == []
    assert set(room.iterdir()) == before


@pytest.mark.timeout(400)
def test_smollm_loses_less_than_in_the_mix_of_that_size_on_a_text_held_out(parent, quantized, tmp_path):
    uniform = quantized("Q4_K_M")

    made = quantize_dynamic(
        parent,
        tmp_path / "made.gguf",
        budget=Budget(like="Q4_K_M"),
        types=("Q4_K", "Q6_K"),
        bands=1,
        context=64,
        windows=1,
        threads=2,
    )

    assert made.model.size_bytes <= uniform.stat().st_size
    # Trials are on the other text that ships.
    ours, theirs = (
        measure_quality(each, parent, context=64, windows=3, threads=2).comparison.divergence.value
        for each in (made.model.path, uniform)
    )
    assert ours < theirs
