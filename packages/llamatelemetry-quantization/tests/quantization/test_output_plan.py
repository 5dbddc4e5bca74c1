from __future__ import annotations

import gguf
import numpy as np
import pytest

from llamatelemetry.errors import ModelFileError
from llamatelemetry.quantization import quantize


def write(path, architecture="llama", **keys):
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in keys.items():
        writer.add_uint32(key.replace("__", "."), value)
    writer.add_tensor("blk.0.attn_q.weight", np.ones((2, 256), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_metadata_stays_as_it_is_but_for_what_quantizing_says(tmp_path, tiny):
    quantize(tiny, tmp_path / "out.gguf", file_type="Q5_K_M")

    before, after = (gguf.GGUFReader(path).fields for path in (tiny, tmp_path / "out.gguf"))
    added = {"general.file_type": 17, "general.quantization_version": 2}
    assert {key: after[key].contents() for key in set(after) - set(before)} == added
    same = [key for key in before if not key.startswith("GGUF.")]
    assert {key: after[key].contents() for key in same} == {key: before[key].contents() for key in same}


def test_keys_of_a_split_that_is_none_any_more_go(tmp_path):
    source = write(tmp_path / "in.gguf", split__no=0, split__count=1, split__tensors__count=1)
    quantize(source, tmp_path / "out.gguf", file_type="Q8_0")

    assert not [key for key in gguf.GGUFReader(tmp_path / "out.gguf").fields if key.startswith("split.")]


def test_one_part_of_a_split_model_is_refused_with_what_to_do(tmp_path):
    source = write(tmp_path / "in.gguf", split__no=0, split__count=3)
    with pytest.raises(ModelFileError, match="llama-gguf-split --merge"):
        quantize(source, tmp_path / "out.gguf", file_type="Q8_0")


def test_a_file_without_an_architecture_is_no_model(tmp_path):
    source = write(tmp_path / "in.gguf", architecture="")
    with pytest.raises(ModelFileError, match="does not name its architecture"):
        quantize(source, tmp_path / "out.gguf", file_type="Q8_0")


def test_another_alignment_is_kept(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "in.gguf", "llama")
    writer.add_custom_alignment(256)
    for name in ("blk.0.attn_q.weight", "blk.0.attn_k.weight"):
        writer.add_tensor(name, np.ones((3, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    quantize(tmp_path / "in.gguf", tmp_path / "out.gguf", file_type="Q8_0")

    offsets = [int(tensor.data_offset) for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors]
    assert [offset % 256 for offset in offsets] == [0, 0]
    assert offsets[1] - offsets[0] == 256
