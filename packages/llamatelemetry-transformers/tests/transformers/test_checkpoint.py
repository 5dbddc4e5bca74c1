from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.errors import ModelFileError
from llamatelemetry.transformers.checkpoint import read_checkpoint

A = {"a": ("BF16", (2, 2))}
B = {"b": ("BF16", (3,))}


def test_a_folder_with_one_file_of_weights_is_read(checkpoint):
    path = checkpoint.config()
    weights = checkpoint.weights(A | B)
    found = read_checkpoint(checkpoint.path)
    assert (found.folder, found.config_path, found.weights_path) == (checkpoint.path, path, weights)
    assert found.config["model_type"] == "llama"
    assert [(tensor.name, tensor.size_bytes) for tensor in found.tensors] == [("a", 8), ("b", 6)]


def test_a_folder_with_several_files_is_read_through_their_index(checkpoint):
    checkpoint.config()
    index = checkpoint.shards(A, B)
    found = read_checkpoint(checkpoint.path)
    assert found.weights_path == index
    assert {tensor.name for tensor in found.tensors} == {"a", "b"}


def test_the_configuration_stands_for_its_folder(checkpoint):
    path = checkpoint.config()
    checkpoint.weights(A)
    assert read_checkpoint(path) == read_checkpoint(checkpoint.path)


def test_a_relative_path_is_as_good(checkpoint, monkeypatch):
    checkpoint.config()
    monkeypatch.chdir(checkpoint.path)
    for path in (Path(), Path("config.json")):
        assert read_checkpoint(path).name == "small-model"


def test_one_file_is_preferred_to_an_index(checkpoint):
    checkpoint.config()
    checkpoint.shards(A, B)
    checkpoint.weights({"c": ("F32", (1,))})
    assert [tensor.name for tensor in read_checkpoint(checkpoint.path).tensors] == ["c"]


def test_a_folder_without_weights_has_no_tensors(checkpoint):
    checkpoint.config()
    (checkpoint.path / "pytorch_model.bin").write_bytes(b"never opened")
    found = read_checkpoint(checkpoint.path)
    assert (found.tensors, found.weights_path) == (None, None)


def test_a_model_in_a_cache_has_the_name_of_its_repository(checkpoint, tmp_path):
    checkpoint.config()
    checkpoint.weights(A)
    repository = tmp_path / "hub" / "models--acme--small-model-1B"
    snapshot = repository / "snapshots" / "0123abcd"
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        shutil.move(checkpoint.path / name, repository / "blobs" / name)
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    found = read_checkpoint(snapshot)
    assert found.name == "acme/small-model-1B"
    assert [tensor.name for tensor in found.tensors] == ["a"]


def test_what_is_no_checkpoint_is_none(checkpoint, tmp_path):
    assert read_checkpoint(checkpoint.path) is None
    (checkpoint.path / "model.gguf").write_bytes(b"GGUF")
    assert read_checkpoint(checkpoint.path / "model.gguf") is None
    assert read_checkpoint(tmp_path / "nowhere") is None
    assert read_checkpoint(tmp_path / "nowhere" / "config.json") is None
    assert read_checkpoint(Path("a\0b")) is None
    assert read_checkpoint(Path("x" * 5000)) is None
    os.mkfifo(checkpoint.path / "config.json")
    assert read_checkpoint(checkpoint.path) is None


@pytest.mark.parametrize("content", [[], {}, 1, "text", None, {"name": "something else's settings"}])
def test_another_programs_configuration_is_none(checkpoint, content):
    checkpoint.config_of(content)
    assert read_checkpoint(checkpoint.path) is None


def test_a_configuration_that_is_no_json_is_an_error(checkpoint):
    path = checkpoint.path / "config.json"
    path.write_text("{'model_type': 'llama'}")
    with pytest.raises(ModelFileError, match=r"config\.json: is not JSON"):
        read_checkpoint(checkpoint.path)


def test_a_configuration_of_megabytes_is_an_error(checkpoint):
    checkpoint.config(padding="x" * 2**20)
    with pytest.raises(ModelFileError, match=r"config\.json: has \d+ bytes, and 1048576 is the most"):
        read_checkpoint(checkpoint.path)


def test_missing_files_are_named(checkpoint):
    checkpoint.config()
    checkpoint.shards(A, B, {"c": ("F32", (1,))})
    for number in (1, 3):
        (checkpoint.path / f"model-{number:05}-of-00003.safetensors").unlink()
    with pytest.raises(ModelFileError) as caught:
        read_checkpoint(checkpoint.path)
    assert "names 2 of 3 files that are not there: model-00001-of-00003.safetensors, model-00003" in str(caught.value)


def test_of_many_missing_files_some_are_named(checkpoint):
    checkpoint.config()
    checkpoint.index({str(number): f"{number:02}.safetensors" for number in range(40)})
    with pytest.raises(ModelFileError, match=r"names 40 of 40 .* 04\.safetensors and 35 more"):
        read_checkpoint(checkpoint.path)


def test_a_link_to_weights_that_are_gone_is_an_error(checkpoint):
    checkpoint.config()
    (checkpoint.path / "model.safetensors").symlink_to("gone")
    with pytest.raises(ModelFileError, match=r"model\.safetensors: does not exist"):
        read_checkpoint(checkpoint.path)


def test_parts_without_an_index_are_an_error(checkpoint):
    checkpoint.config()
    checkpoint.shards(A, B).unlink()
    with pytest.raises(ModelFileError, match=r"index\.json: does not exist, and model-00001-of-00002\.safetensors"):
        read_checkpoint(checkpoint.path)


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "/etc/model.safetensors",
        "part/model.safetensors",
        "part\\model.safetensors",
        "..",
        "",
        ".safetensors\n",
        "model.bin",
        "a\0.safetensors",
        "\ud800.safetensors",
        "\x1b[31m.safetensors",
        "x" * 300 + ".safetensors",
        7,
        None,
        ["model.safetensors"],
    ],
)
def test_an_index_may_name_nothing_but_files_beside_it(checkpoint, name):
    checkpoint.weights(A, "model.safetensors")
    shutil.move(checkpoint.path / "model.safetensors", checkpoint.path.parent / "model.safetensors")
    checkpoint.config()
    checkpoint.index({"a": name})
    with pytest.raises(ModelFileError, match=r"which cannot be a \.safetensors file beside it|not Unicode") as caught:
        read_checkpoint(checkpoint.path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("content", [[], {}, {"weight_map": None}, {"weight_map": []}, {"weight_map": {}}])
def test_an_index_without_a_map_is_an_error(checkpoint, content):
    checkpoint.config()
    (checkpoint.path / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(ModelFileError, match="has no weight_map"):
        read_checkpoint(checkpoint.path)


def test_an_index_and_its_files_must_agree(checkpoint):
    checkpoint.config()
    checkpoint.shards(A, B)
    checkpoint.weights(A, "model-00002-of-00002.safetensors")
    with pytest.raises(ModelFileError, match=r"00002\.safetensors: holds tensor 'a', which .* places elsewhere"):
        read_checkpoint(checkpoint.path)
    checkpoint.weights({"c": ("U8", (1,))}, "model-00002-of-00002.safetensors")
    with pytest.raises(ModelFileError, match=r"places tensor 'b' in model-00002-of-00002\.safetensors, which does"):
        read_checkpoint(checkpoint.path)


def test_a_damaged_file_is_named_and_not_the_folder(checkpoint):
    checkpoint.config()
    checkpoint.shards(A, B)
    damaged = checkpoint.path / "model-00002-of-00002.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(ModelFileError, match="is cut off") as caught:
        read_checkpoint(checkpoint.path)
    assert caught.value.path == str(damaged)


@given(st.binary(max_size=300), st.sampled_from(["config.json", "model.safetensors", "model.safetensors.index.json"]))
def test_any_bytes_in_any_file_are_read_or_refused(tmp_path_factory, data, name):
    folder = tmp_path_factory.mktemp("any")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / name).write_bytes(data)
    if name == "model.safetensors":
        (folder / name).write_bytes(struct.pack("<Q", len(data)) + data)
    try:
        read_checkpoint(folder)
    except ModelFileError as error:
        assert str(folder) in error.path  # noqa: PT017 - reading it is as good
