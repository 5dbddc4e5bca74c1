from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from llamatelemetry.errors import InvalidValueError, ModelFileError
from llamatelemetry.quantization import FILE_TYPES, ImportanceCollector, quantize, read_importance


def measured(path, width=256):
    chance = np.random.default_rng(3)
    collector = ImportanceCollector()
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up"):
        collector.add(f"blk.0.{name}.weight", chance.standard_normal((2, 600, width)) * np.linspace(0.1, 9, width))
    return collector.write(path, dataset="text.txt")


def test_a_column_matters_as_the_mean_of_its_squares(tmp_path):
    collector = ImportanceCollector()
    collector.add("w", [[1.0, 2.0], [3.0, 0.0]])
    collector.add("w", np.array([[[1.0, 4.0]]], np.float16))

    found = read_importance(collector.write(tmp_path / "imatrix.gguf", dataset="text.txt"))

    np.testing.assert_allclose(found.entries["w"], [11 / 3, 20 / 3], rtol=1e-6)
    assert (found.dataset, found.chunks) == ("text.txt", 1)


def test_llama_cpp_quantizes_with_it_as_we_do(tmp_path, tiny, upstream, monkeypatch):
    monkeypatch.chdir(tmp_path)
    measured(tmp_path / "imatrix.gguf")
    job = {"source": tiny, "target": "theirs.gguf", "ftype": FILE_TYPES["Q4_K_M"].number, "imatrix": "imatrix.gguf"}
    (theirs,) = upstream([job])

    quantize(tiny, "ours.gguf", file_type="Q4_K_M", imatrix="imatrix.gguf")

    assert not theirs["failed"]
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "theirs.gguf").read_bytes()


def test_threads_share_one(tmp_path):
    collector = ImportanceCollector()
    rows = np.ones((100, 8))
    threads = [threading.Thread(target=lambda: [collector.add("w", rows) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = read_importance(collector.write(tmp_path / "imatrix.gguf", dataset=""))

    assert found.entries["w"].tolist() == [1.0] * 8
    assert found.chunks == 4 * 50 * 100 // 512


def test_what_cannot_be_measured_is_refused(tmp_path):
    collector = ImportanceCollector()
    with pytest.raises(InvalidValueError, match="run the model on a text first"):
        collector.write(tmp_path / "imatrix.gguf", dataset="")
    with pytest.raises(InvalidValueError, match="overflow"):
        collector.add("w", [[np.inf]])
    collector.add("w", [[1.0, 2.0]])
    with pytest.raises(InvalidValueError, match="give 2 numbers a token"):
        collector.add("w", [[1.0]])
    with pytest.raises(ModelFileError, match="cannot be written"):
        collector.write(tmp_path / "none" / "imatrix.gguf", dataset="")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_plain_file_is_not_replaced_by_a_matrix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    for name, message in (("pipe", "no plain file"), (".", "Is a directory")):
        with pytest.raises(ModelFileError, match=message):
            measured(name)
    assert Path("pipe").is_fifo()
