"""``QuantizationPipeline`` with an adapter: merged here, found there by its name."""

from __future__ import annotations

from llamatelemetry.artifacts.store import ArtifactStore
from llamatelemetry.quantization import QuantizationPipeline


def test_an_adapter_is_merged_quantized_and_measured_and_every_file_leads_back_to_it(base, trained, tmp_path):
    benchmark = {"prompts": ["1 plus 2", "3 plus 0"], "max_tokens": 4, "options": {"context_length": 256}}
    road = QuantizationPipeline(["Q8_0"], merge={"dtype": "float32"}, benchmark=benchmark, threads=1)

    made = road.run(base, adapter=trained, store=tmp_path / "store")

    ids = ["merge_lora", "f16", "q8_0", "benchmark-f16", "benchmark-q8_0", "compare"]
    assert [stage.id for stage in made.run.record.stages] == ids
    assert made.run.artifacts["merge_lora.checkpoint"].manifest.parameters["dtype"] == "float32"
    assert [variant.name for variant in made.table.variants] == ["f16", "q8_0"]
    assert all(variant.ttft_ms.value > 0 for variant in made.table.variants)
    store, digest = ArtifactStore(tmp_path / "store"), made.run.artifacts["q8_0.model"].manifest.digest
    for name in ("f16.model", "merge_lora.checkpoint"):
        digest = store.get(digest).parents[0].digest
        assert digest == made.run.artifacts[name].manifest.digest
    given = {made.run.artifacts[f"inputs.{each}"].manifest.digest for each in ("checkpoint", "adapter")}
    assert {parent.digest for parent in store.get(digest).parents} == given
