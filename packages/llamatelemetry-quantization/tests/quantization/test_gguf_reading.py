"""Hostile and damaged files: never a crash, a hang or memory out of proportion, and one typed error."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamatelemetry.errors import LlamatelemetryError, ModelFileError
from llamatelemetry.quantization import quantize
from llamatelemetry.quantization.ggml import load_ggml
from llamatelemetry.quantization.gguf_reading import open_gguf, read_layout


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def file_of(given: list[bytes], described: list[bytes], data: bytes = bytes(64), **head: int) -> bytes:
    values = {"version": 3, "tensors": len(described), "keys": len(given)} | head
    start = struct.pack("<4sIQQ", b"GGUF", values["version"], values["tensors"], values["keys"])
    body = start + b"".join(given) + b"".join(described)
    return body + bytes(-len(body) % 32) + data


ARCHITECTURE = key(b"general.architecture", 8, text(b"llama"))
WEIGHT = tensor(b"w", (8,), 0, 0)

CORPUS = {
    "empty": (b"", "is not a GGUF file"),
    "three bytes": (b"GGU", "is not a GGUF file"),
    "magic alone": (b"GGUF", "is cut off"),
    "version 1": (file_of([], [], version=1), "version 1"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version 50331648"),
    "keys without end": (file_of([ARCHITECTURE], [], keys=2**63), "claims 9223372036854775808 keys"),
    "tensors without end": (file_of([ARCHITECTURE], [], tensors=2**40), "claims 1099511627776 tensors"),
    "a text without end": (file_of([key(b"a", 8, struct.pack("<Q", 2**62))], []), "is cut off"),
    "an array without end": (file_of([key(b"a", 9, struct.pack("<IQ", 4, 2**61))], []), "claims 2305843009213693952"),
    "texts without end": (file_of([key(b"a", 9, struct.pack("<IQ", 8, 2**40))], []), "claims 1099511627776 texts"),
    "arrays within arrays": (file_of([key(b"a", 9, struct.pack("<IQ", 9, 1))], []), "type 9"),
    "a type that is none": (file_of([key(b"a", 99, b"")], []), "type 99"),
    "a name without end": (file_of([struct.pack("<Q", 2**50)], []), "name of a key has 1125899906842624 bytes"),
    "a name that is no text": (file_of([key(b"\xff\xfe", 4, bytes(4))], []), "not UTF-8"),
    "a key twice": (file_of([ARCHITECTURE, ARCHITECTURE], []), "2 times"),
    "a tensor twice": (file_of([ARCHITECTURE], [WEIGHT, tensor(b"w", (8,), 0, 32)]), "2 times"),
    "alignment 3": (file_of([key(b"general.alignment", 4, struct.pack("<I", 3))], []), "power of two"),
    "alignment 0": (file_of([key(b"general.alignment", 4, bytes(4))], []), "power of two"),
    "alignment as text": (file_of([key(b"general.alignment", 8, text(b"32"))], []), "power of two"),
    "alignment 2**31": (file_of([key(b"general.alignment", 4, struct.pack("<I", 2**31))], []), "power of two"),
    "no dimension": (file_of([], [tensor(b"w", (), 0, 0)]), "0 dimensions"),
    "dimensions without end": (file_of([], [text(b"w") + struct.pack("<I", 2**31)]), "2147483648 dimensions"),
    "a size of 0": (file_of([], [tensor(b"w", (0, 4), 0, 0)]), r"the sizes \[0, 4\]"),
    "sizes that overflow": (file_of([], [tensor(b"w", (2**33, 2**33), 0, 0)]), "the sizes"),
    "a type that is not known": (file_of([], [tensor(b"w", (8,), 12345, 0)]), "type 12345"),
    "a type that was removed": (file_of([], [tensor(b"w", (32,), 4, 0)]), "type 4"),
    "rows that do not fit": (file_of([], [tensor(b"w", (8,), 12, 0)]), "no multiple of 256"),
    "an offset elsewhere": (file_of([], [tensor(b"w", (8,), 0, 2**40)]), "and 0 was expected"),
    "tensors on each other": (file_of([], [WEIGHT, tensor(b"v", (8,), 0, 0)]), "and 32 was expected"),
    "data that is not there": (file_of([], [tensor(b"w", (8, 2**30), 0, 0)]), "is cut off"),
}


def read(path: Path):
    with open_gguf(path) as file:
        return read_layout(path, file, load_ggml().types_by_number)


@pytest.mark.parametrize("name", CORPUS)
def test_a_damaged_file_is_an_error_that_says_what_is_wrong(tmp_path, name):
    content, message = CORPUS[name]
    path = tmp_path / "in.gguf"
    path.write_bytes(content)

    with pytest.raises(ModelFileError, match=message) as raised:
        read(path)
    assert str(path) in str(raised.value)
    with pytest.raises(ModelFileError):
        quantize(path, tmp_path / "out.gguf", file_type="Q8_0")
    assert [found.name for found in tmp_path.iterdir()] == ["in.gguf"]


def test_a_pipe_is_no_model_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="not a regular file"):
        read(tmp_path / "pipe")


@pytest.mark.parametrize("name", ["missing", "nul\0", "x" * 300])
def test_a_file_that_cannot_be_opened_is_a_typed_error(tmp_path, name):
    with pytest.raises(ModelFileError):
        read(tmp_path / name)


def test_what_is_read_is_what_the_format_says(tiny):
    layout = read(tiny)
    reader = gguf.GGUFReader(tiny)

    assert [found.name for found in layout.tensors] == [found.name for found in reader.tensors]
    assert [found.start for found in layout.tensors] == [int(found.data_offset) for found in reader.tensors]
    assert [found.size_bytes for found in layout.tensors] == [int(found.n_bytes) for found in reader.tensors]
    assert (layout.value("general.architecture"), layout.whole("llama.block_count")) == ("llama", 1)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), begun=st.sampled_from([b"", b"GGUF\3\0\0\0", file_of([ARCHITECTURE], [])[:24]]))
def test_any_bytes_are_a_layout_or_one_typed_error(tmp_path, content, begun):
    path = tmp_path / "in.gguf"
    path.write_bytes(begun + content)
    with contextlib.suppress(ModelFileError):
        read(path)


def test_a_real_file_with_any_bytes_changed_is_quantized_or_refused_and_leaves_nothing_else(tmp_path, narrow):
    source = narrow(tmp_path / "whole.gguf", "llama", {"attn_q": (2, 256), "attn_v": (2, 256)}, blocks=1)
    whole = source.read_bytes()
    head = int(gguf.GGUFReader(source).tensors[0].data_offset)
    path, target = tmp_path / "in.gguf", tmp_path / "out.gguf"
    chance = random.Random(4)
    refused = 0
    for _ in range(400):
        changed = bytearray(whole)
        for _ in range(chance.choice([1, 1, 2, 8])):
            place = chance.randrange(head)
            changed[place] = chance.choice([0, 1, 0x7F, 0xFF, chance.randrange(256)])
        cut = chance.randrange(len(whole)) if chance.random() < 0.2 else len(whole)
        path.write_bytes(changed[:cut])
        try:
            quantize(path, target, file_type="Q4_K_M", threads=1)
        except LlamatelemetryError:
            refused += 1
            assert not target.exists()
        target.unlink(missing_ok=True)
    assert 50 < refused < 400
    assert sorted(found.name for found in tmp_path.iterdir()) == ["in.gguf", "whole.gguf"]


def test_what_a_hostile_header_costs_is_bounded_by_the_size_of_the_file(tmp_path):
    # As many keys, and texts in them, as the file can hold.
    keys = [key(b"%d" % number, 9, struct.pack("<IQ", 8, 200) + bytes(1600)) for number in range(2000)]
    path = tmp_path / "in.gguf"
    path.write_bytes(file_of(keys, []))
    tracemalloc.start()
    begun = time.process_time()

    read(path)

    seconds, (_, peak) = time.process_time() - begun, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < path.stat().st_size
    assert seconds < 20


HUGE = """
import sys
from llamatelemetry.quantization import quantize

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

quantize(sys.argv[1], sys.argv[2], file_type="Q8_0", threads=1)  # Loads what takes memory only once.
before = peak()
quantize(sys.argv[3], sys.argv[2], file_type="Q8_0", threads=2)
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_model(tmp_path, tiny):
    # Half a gigabyte of zeros, which is a hole in the file.
    rows = 2**19
    blocks = key(b"llama.block_count", 4, struct.pack("<I", 1))
    head = file_of([ARCHITECTURE, blocks], [tensor(b"blk.0.attn_q.weight", (256, rows), 0, 0)], data=b"")
    path = tmp_path / "huge.gguf"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + 256 * rows * 4)

    grown = subprocess.run(
        [sys.executable, "-c", HUGE, str(tiny), str(tmp_path / "out.gguf"), str(path)],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    ).stdout

    assert int(grown) < 32 * 2**20


def test_rows_too_long_for_any_model_are_refused(tmp_path):
    row = 2**23
    head = file_of([ARCHITECTURE], [tensor(b"a.weight", (row, 2), 0, 0)], data=b"")
    path = tmp_path / "in.gguf"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + row * 8)

    with pytest.raises(ModelFileError, match="rows of 8388608 numbers"):
        quantize(path, tmp_path / "out.gguf", file_type="Q8_0")
