"""Importance matrices in both formats, whole and damaged."""

from __future__ import annotations

import contextlib
import random
import struct

import gguf
import numpy as np
import pytest

from llamatelemetry.errors import LlamatelemetryError, ModelFileError
from llamatelemetry.quantization import read_importance


def entry(name: bytes, calls: int, values: list[float]) -> bytes:
    return struct.pack("<i", len(name)) + name + struct.pack(f"<ii{len(values)}f", calls, len(values), *values)


def dat(*entries: bytes, end: bytes = b"") -> bytes:
    return struct.pack("<i", len(entries)) + b"".join(entries) + end


def test_a_gguf_matrix_gives_the_mean_of_each_column(tiny_importance):
    found = read_importance(tiny_importance)

    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tiny_importance).tensors}
    sums = tensors["blk.0.ffn_down.weight.in_sum2"]
    np.testing.assert_array_equal(found.entries["blk.0.ffn_down.weight"], (sums / np.float32(2048)).reshape(-1))
    assert (found.dataset, found.chunks) == ("small.txt", 4)
    assert "token_embd.weight" not in found.entries


def test_an_expert_that_no_text_reached_has_columns_that_matter_alike(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "imatrix.gguf", "")
    writer.add_tensor("w.in_sum2", np.array([[2, 4], [0, 0]], np.float32))
    writer.add_tensor("w.counts", np.array([[2], [0]], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    assert read_importance(tmp_path / "imatrix.gguf").entries["w"].tolist() == [1, 2, 1, 1]


def test_the_older_format_is_read_too(tmp_path):
    path = tmp_path / "imatrix.dat"
    path.write_bytes(dat(entry(b"a", 2, [2, 4]), entry(b"b", 0, [1]), end=struct.pack("<ii", 7, 4) + b"text"))

    found = read_importance(path)

    assert {name: values.tolist() for name, values in found.entries.items()} == {"a": [1, 2], "b": [1]}
    assert (found.dataset, found.chunks) == ("text", 7)


DAMAGED = {
    "empty": (b"", "neither an importance matrix nor whole"),
    "no entry": (struct.pack("<i", 0) + bytes(20), "claims 0 entries"),
    "entries without end": (struct.pack("<i", 2**31 - 1), "claims 2147483647 entries"),
    "a name without end": (struct.pack("<ii", 1, 2**31 - 1) + bytes(20), "a name would have 2147483647 bytes"),
    "values without end": (dat(entry(b"a", 1, [1.0]))[:-8] + struct.pack("<i", 2**29) + bytes(4), "would have"),
    "cut off": (dat(entry(b"a", 1, [1.0, 2.0]))[:-4], "would have 8 bytes"),
    "not finite": (dat(entry(b"a", 1, [float("nan")])), "not finite"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_matrix_is_an_error_that_says_what_is_wrong(tmp_path, name):
    content, message = DAMAGED[name]
    (tmp_path / "imatrix").write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        read_importance(tmp_path / "imatrix")


def test_a_model_is_no_importance_matrix(tiny):
    with pytest.raises(ModelFileError, match="no importance matrix"):
        read_importance(tiny)


@pytest.mark.parametrize("kind", ["gguf", "dat"])
def test_a_matrix_with_any_bytes_changed_is_read_or_refused(tmp_path, tiny_importance, kind):
    whole = tiny_importance.read_bytes() if kind == "gguf" else dat(entry(b"ab", 2, [1.0] * 8), entry(b"c", 1, [1.0]))
    path = tmp_path / "imatrix"
    chance = random.Random(6)
    for _ in range(300):
        changed = bytearray(whole)
        for _ in range(chance.choice([1, 2, 6])):
            changed[chance.randrange(min(len(whole), 2000))] = chance.choice([0, 1, 0x7F, 0xFF, chance.randrange(256)])
        path.write_bytes(changed[: chance.choice([len(whole), chance.randrange(len(whole))])])
        with contextlib.suppress(LlamatelemetryError):
            read_importance(path)
