"""What an adapter is, and what is no adapter."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.errors import ModelFileError
from llamatelemetry.unsloth.adapter import CONFIG, WEIGHTS, read_adapter
from llamatelemetry.unsloth.testing import SMALL_LAYERS, write_small_adapter


def header_of(folder):
    content = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_header(folder, header, data):
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_an_adapter_is_told_from_its_files(tmp_path):
    folder = write_small_adapter(tmp_path / "lora", rank=4, peft_version="0.21.2", lora_dropout=0.1)

    found = read_adapter(folder)

    assert (found.base_model, found.task, found.peft_version) == ("small", "CAUSAL_LM", "0.21.2")
    assert (found.rank, found.alpha, found.scale, found.dropout) == (4, 8, 2.0, 0.1)
    assert found.targets == ("q_proj", "v_proj")
    assert set(found.layers) == set(SMALL_LAYERS)
    assert found.target_parameters == {"q_proj": 2 * 4 * 128, "v_proj": 2 * 4 * 96}
    assert found.parameters == 1792
    assert (found.dtypes, found.size_bytes) == (("F32",), 4 * 1792)


def test_the_scale_is_by_the_root_of_the_rank_where_the_adapter_says_so(tmp_path):
    found = read_adapter(write_small_adapter(tmp_path / "lora", rank=4, use_rslora=True))

    assert found.rslora
    assert found.scale == 4.0


def test_what_was_trained_whole_is_counted_too(tmp_path):
    folder = write_small_adapter(tmp_path / "lora", modules_to_save=["lm_head"])
    header, data = header_of(folder)
    header["base_model.model.lm_head.weight"] = {
        "dtype": "F16",
        "shape": [10, 2],
        "data_offsets": [len(data), len(data) + 40],
    }
    write_header(folder, header, data + bytes(40))

    found = read_adapter(folder)

    assert found.target_parameters["lm_head"] == 20
    assert found.trained_whole == ("lm_head",)
    assert found.dtypes == ("F16", "F32")
    assert "lm_head" not in found.targets


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "LOHA"}, "only LORA"),
        ({"peft_type": None}, "only LORA"),
        ({"r": 0}, "r is 0"),
        ({"r": "4"}, "r is '4', which is no whole number"),
        ({"lora_alpha": [1]}, "lora_alpha"),
        ({"lora_alpha": 10**400}, "lora_alpha"),
        ({"use_dora": 3}, "use_dora"),
        ({"modules_to_save": "all"}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": "x"}}, "rank_pattern"),
        ({"base_model_name_or_path": 3}, "base_model_name_or_path"),
    ],
)
def test_a_configuration_that_says_something_else_is_refused_by_name(tmp_path, config, said):
    folder = write_small_adapter(tmp_path / "lora")
    kept = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(kept | config))

    with pytest.raises(ModelFileError, match=said):
        read_adapter(folder)


def test_a_folder_without_an_adapter_says_what_one_is(tmp_path):
    with pytest.raises(ModelFileError, match="is no folder"):
        read_adapter(tmp_path / "nowhere")
    with pytest.raises(ModelFileError, match=r"adapter_config\.json: does not exist"):
        read_adapter(tmp_path)


def test_weights_that_run_code_when_they_are_loaded_are_refused(tmp_path):
    folder = write_small_adapter(tmp_path / "lora")
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")

    with pytest.raises(ModelFileError, match="can run code"):
        read_adapter(folder)


def test_a_and_b_must_fit_each_other(tmp_path):
    folder = write_small_adapter(tmp_path / "lora", layers={"model.q_proj": (8, 8)})
    header, data = header_of(folder)
    entry = header["base_model.model.model.q_proj.lora_B.weight"]
    entry["shape"] = entry["shape"][::-1]
    write_header(folder, header, data)

    with pytest.raises(ModelFileError, match="A and B"):
        read_adapter(folder)


def test_weights_that_are_cut_off_are_noticed(tmp_path):
    folder = write_small_adapter(tmp_path / "lora")
    content = (folder / WEIGHTS).read_bytes()

    for kept in (0, 5, 12, 200, len(content) - 1):
        (folder / WEIGHTS).write_bytes(content[:kept])
        with pytest.raises(ModelFileError, match="adapter_model"):
            read_adapter(folder)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory) -> Path:
    return write_small_adapter(tmp_path_factory.mktemp("fuzzed"), layers={"model.q_proj": (4, 4)}, rank=1)


@given(data=st.data())
def test_damaged_files_are_read_or_refused_and_nothing_else(fuzzed, data):
    write_small_adapter(fuzzed, layers={"model.q_proj": (4, 4)}, rank=1)
    path = fuzzed / data.draw(st.sampled_from([CONFIG, WEIGHTS]))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
        if not content:
            break
    path.write_bytes(content)

    try:
        found = read_adapter(fuzzed)
    except ModelFileError:
        return
    assert found.rank >= 1
