from __future__ import annotations

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamatelemetry.errors import LlamatelemetryError, ModelFileError
from llamatelemetry.quantization import convert
from llamatelemetry.quantization.conversion.checkpoint import open_checkpoint
from llamatelemetry.quantization.small_checkpoints import write_small_checkpoint


def rewrite(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path):
    return write_small_checkpoint(tmp_path / "small", shards=2)


def refused(folder, message):
    with pytest.raises(ModelFileError, match=message), open_checkpoint(folder):
        pass


def test_a_checkpoint_in_shards_is_read_in_their_order(folder):
    with open_checkpoint(folder) as checkpoint:
        assert len(checkpoint.files) == 2
        assert checkpoint.tensors[0].name == "model.embed_tokens.weight"
        assert checkpoint.size_bytes == sum(tensor.elements * 2 for tensor in checkpoint.tensors)


def test_what_is_no_checkpoint_says_what_to_do(tmp_path, folder):
    refused(tmp_path / "none", "is not a folder")
    (folder / "model.safetensors.index.json").unlink()
    refused(folder, "has neither model.safetensors nor")
    (folder / "adapter_model.safetensors").touch()
    refused(folder, "merge it into its base model")
    (folder / "pytorch_model.bin").touch()
    refused(folder, "save_pretrained")


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "model.bin", "a\0.safetensors"])
def test_an_index_names_only_files_beside_it(folder, name):
    index = folder / "model.safetensors.index.json"
    rewrite(index, lambda content: content["weight_map"].update({"lm_head.weight": name}))
    refused(folder, "no safetensors file beside it")


def test_an_index_that_tells_of_other_tensors_is_refused(folder):
    index = folder / "model.safetensors.index.json"
    rewrite(index, lambda content: content["weight_map"].update({"more": "model-00001-of-00002.safetensors"}))
    refused(folder, "tells of 'more'")
    rewrite(index, lambda content: [content["weight_map"].pop(name) for name in ("more", "lm_head.weight")])
    refused(folder, "does not tell of 'lm_head.weight'")


def test_weights_that_are_cut_off_are_refused(folder):
    path = folder / "model-00002-of-00002.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    refused(folder, "model-00002-of-00002.safetensors: is cut off")


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path):
    folder = write_small_checkpoint(tmp_path / "small")
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    refused(folder, "is not a regular file")


def test_weights_that_change_meanwhile_are_an_error(folder):
    with pytest.raises(ModelFileError, match="changed while it was read"), open_checkpoint(folder):
        os.utime(folder / "model-00001-of-00002.safetensors", ns=(1, 1))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]),
    at=st.floats(0, 1, exclude_max=True),
    bytes_=st.binary(max_size=4),
    cut=st.booleans(),
)
def test_a_damaged_file_is_a_typed_error_or_converted(tmp_path_factory, name, at, bytes_, cut):
    folder = write_small_checkpoint(tmp_path_factory.mktemp("fuzz") / "small")
    data = bytearray((folder / name).read_bytes())
    place = int(at * min(len(data), 4000))
    data[place : len(data) if cut else place + len(bytes_)] = bytes_
    (folder / name).write_bytes(data)

    try:
        convert(folder, folder / "out.gguf", threads=1)
    except LlamatelemetryError:
        assert not (folder / "out.gguf").exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=JSON)
def test_any_value_in_place_of_any_other_is_a_typed_error_or_converted(tmp_path_factory, data, value):
    folder = write_small_checkpoint(tmp_path_factory.mktemp("fuzz") / "small")
    path = folder / data.draw(st.sampled_from(["config.json", "tokenizer.json", "tokenizer_config.json"]))
    content = json.loads(path.read_text())
    place, key = content, data.draw(st.sampled_from(sorted(content)))
    if isinstance(content[key], dict) and data.draw(st.booleans()):
        place = content[key]
        key = data.draw(st.sampled_from(sorted(place)))
    place[key] = value
    path.write_text(json.dumps(content))

    try:
        convert(folder, folder / "out.gguf", threads=1)
    except LlamatelemetryError:
        assert not (folder / "out.gguf").exists()
