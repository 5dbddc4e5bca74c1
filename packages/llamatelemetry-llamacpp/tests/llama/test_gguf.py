from __future__ import annotations

import hashlib
import os
import random
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamatelemetry.errors import ModelFileError
from llamatelemetry.llama.ggml_types import FILE_TYPES, TENSOR_TYPES
from llamatelemetry.llama.gguf import Unread, read_gguf, sha256_of

STRING, ARRAY, U8, U32, U64 = 8, 9, 0, 4, 10
HOSTILE_BYTES = 8 * 2**20


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int, elements: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + elements


def header(*pairs: bytes, tensors: tuple[bytes, ...] = (), version: int = 3, keys: int | None = None) -> bytes:
    counts = struct.pack("<IQQ", version, len(tensors), len(pairs) if keys is None else keys)
    return b"GGUF" + counts + b"".join(pairs) + b"".join(tensors)


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def peak_of(path: Path) -> tuple[int, ModelFileError | None]:
    """Most bytes Python held while it read the file, and the error it ended in."""
    tracemalloc.start()
    try:
        read_gguf(path)
        error = None
    except ModelFileError as caught:
        error = caught
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak, error


def test_a_real_model_says_what_it_is(model_path):
    model = read_gguf(model_path)
    assert model.version == 3
    assert model.size_bytes == 98_362_432
    assert model.architecture == "llama"
    assert model.name == "Smollm2 135M 8k Lc100K Mix1 Ep2"
    assert model.quantization == "Q4_1"
    assert model.parameters == 134_515_008
    assert (model.context_length, model.block_count, model.embedding_length) == (8192, 30, 576)
    assert (model.head_count, model.head_count_kv) == (9, 3)
    # 30 blocks, 3 heads, a key and a value of 64 numbers, 2 bytes each.
    assert model.kv_bytes_per_token == 30 * 3 * (64 + 64) * 2
    assert model.metadata["tokenizer.ggml.tokens"] == Unread("string", 49_152, 1107)
    assert model.metadata["llama.rope.freq_base"] == 100_000.0


def test_a_real_models_tensors_are_where_the_reference_reader_finds_them(model_path):
    expected = {
        tensor.name: (tuple(tensor.shape), tensor.tensor_type.name, tensor.data_offset, tensor.n_bytes)
        for tensor in gguf.GGUFReader(model_path).tensors
    }
    found = {t.name: (t.shape, t.type, t.offset, t.size_bytes) for t in read_gguf(model_path).tensors}
    assert found == expected


def test_types_are_those_of_the_reference_table():
    sizes = {kind.value: (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
    assert {number: tuple(kind) for number, kind in TENSOR_TYPES.items()} == sizes
    names = {
        kind.value: kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
        for kind in gguf.LlamaFileType
        if kind != gguf.LlamaFileType.GUESSED
    }
    assert names == FILE_TYPES


scalars = {
    "uint8": st.integers(0, 2**8 - 1),
    "int8": st.integers(-(2**7), 2**7 - 1),
    "uint16": st.integers(0, 2**16 - 1),
    "int16": st.integers(-(2**15), 2**15 - 1),
    "uint32": st.integers(0, 2**32 - 1),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "float32": st.floats(width=32, allow_nan=False),
    "bool": st.booleans(),
    "uint64": st.integers(0, 2**64 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float64": st.floats(allow_nan=False),
    # The writer leaves empty texts out.
    "string": st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
}
keys = st.text("abcdefgh.", min_size=1, max_size=12).map("own.".__add__)
values = st.sampled_from(list(scalars)).flatmap(lambda kind: st.tuples(st.just(kind), scalars[kind]))
shapes = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    metadata=st.dictionaries(keys, values, max_size=8),
    arrays=st.dictionaries(keys.map("array.".__add__), st.lists(st.integers(-100, 100), min_size=1), max_size=3),
    tensors=st.dictionaries(st.text("abcdefgh.", min_size=1, max_size=12), shapes, max_size=5),
    alignment=st.sampled_from([8, 32, 128]),
)
def test_what_the_reference_writer_writes_is_read_back(tmp_path, metadata, arrays, tensors, alignment):
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(alignment)
    for key, (kind, value) in metadata.items():
        getattr(writer, f"add_{kind}")(key, value)
    for key, numbers in arrays.items():
        writer.add_array(key, numbers)
    data = {name: np.random.default_rng(1).random(shape, np.float32) for name, shape in tensors.items()}
    for name, numbers in data.items():
        writer.add_tensor(name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    model = read_gguf(path)
    assert model.architecture == "llama"
    assert {key: model.metadata[key] for key in metadata} == {key: value for key, (_, value) in metadata.items()}
    assert {key: model.metadata[key] for key in arrays} == {key: tuple(numbers) for key, numbers in arrays.items()}
    assert {tensor.name: tensor.shape for tensor in model.tensors} == {
        name: shape[::-1] for name, shape in tensors.items()
    }
    content = path.read_bytes()
    for tensor in model.tensors:
        assert content[tensor.offset : tensor.offset + tensor.size_bytes] == data[tensor.name].tobytes()
    assert model.parameters == (sum(numbers.size for numbers in data.values()) if data else None)


@pytest.fixture(scope="module")
def small_file() -> bytes:
    """A file with one of everything."""
    own = pair("a", ARRAY, array(STRING, 2, text("x") + text("yz")))
    nested = pair("b", ARRAY, array(ARRAY, 2, array(U8, 1, b"\1") + array(U32, 0)))
    name = pair("general.architecture", STRING, text("llama"))
    size = pair("llama.block_count", U32, struct.pack("<I", 2))
    flag = pair("c", 7, b"\1")
    data = header(own, nested, name, size, flag, tensors=(tensor("t", (32, 2), 2), tensor("u", (3,), 0, 64)))
    return data + bytes(-len(data) % 32) + bytes(64 + 12)


def test_cut_off_anywhere_it_is_an_error(tmp_path, small_file):
    path = tmp_path / "model.gguf"
    assert read_gguf(written(path, small_file)).parameters == 67
    for length in range(len(small_file)):
        with pytest.raises(ModelFileError):
            read_gguf(written(path, small_file[:length]))


def test_with_any_byte_changed_it_is_read_or_an_error(tmp_path, small_file):
    path = tmp_path / "model.gguf"
    outcomes = set()
    for index in range(len(small_file)):
        for value in {0, 1, 0x7F, 0x80, 0xFF, small_file[index] ^ 1} - {small_file[index]}:
            written(path, small_file[:index] + bytes([value]) + small_file[index + 1 :])
            try:
                model = read_gguf(path)
                facts = [model.quantization, model.parameters, model.kv_bytes_per_token, model.context_length]
                outcomes.add(type(facts))
            except ModelFileError:
                outcomes.add(ModelFileError)
    assert outcomes == {list, ModelFileError}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(data=st.binary(max_size=200), version=st.sampled_from([2, 3]))
def test_random_bytes_are_read_or_an_error(tmp_path, data, version):
    path = written(tmp_path / "model.gguf", b"GGUF" + struct.pack("<I", version) + data)
    peak, _ = peak_of(path)
    assert peak < HOSTILE_BYTES


HUGE = 2**64 - 1
HOSTILE = {
    "a 49-byte file with a huge array": header(pair("k", ARRAY, array(U8, 2**31))),
    "keys without end": header(keys=HUGE),
    "more keys than bytes": header(keys=2**20) + bytes(1000),
    "tensors without end": b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0),
    "more tensors than bytes": b"GGUF" + struct.pack("<IQQ", 3, 2**20, 0) + bytes(1000),
    "a key without end": header(keys=1) + struct.pack("<Q", HUGE) + bytes(100),
    "a text without end": header(pair("k", STRING, struct.pack("<Q", HUGE))),
    "an array of numbers without end": header(pair("k", ARRAY, array(U64, HUGE))) + bytes(100),
    "an array of texts without end": header(pair("k", ARRAY, array(STRING, HUGE))) + bytes(100),
    "an array of arrays without end": header(pair("k", ARRAY, array(ARRAY, HUGE))) + bytes(100),
    "texts longer than the file": header(pair("k", ARRAY, array(STRING, 2, struct.pack("<QQ", HUGE, HUGE)))),
    "arrays in arrays": header(pair("k", ARRAY, array(ARRAY, 1) * 500 + array(U8, 0))),
    "a type that is none": header(pair("k", 13, b"")),
    "an array of a type that is none": header(pair("k", ARRAY, array(13, 1, bytes(8)))),
    "a key that is not UTF-8": header(text(b"\xff") + struct.pack("<IB", U8, 1)),
    "a key twice": header(pair("k", U8, b"\0"), pair("k", U8, b"\0")),
    "a tensor twice": header(tensors=(tensor("t", (1,)), tensor("t", (1,)))) + bytes(100),
    "a tensor of many dimensions": header(tensors=(tensor("t", (1,) * 5),)) + bytes(100),
    "a tensor larger than the file": header(tensors=(tensor("t", (2**40, 2**40)),)) + bytes(100),
    "a tensor beyond the file": header(tensors=(tensor("t", (1,), offset=2**63),)) + bytes(100),
    "a tensor of an unknown type, larger than the file": header(tensors=(tensor("t", (2**40,), 999),)) + bytes(100),
    "a tensor whose rows are no whole blocks": header(tensors=(tensor("t", (33,), 2),)) + bytes(100),
    "an alignment of zero": header(pair("general.alignment", U32, bytes(4))),
    "an alignment of three": header(pair("general.alignment", U32, struct.pack("<I", 3))),
    "an alignment that is true": header(pair("general.alignment", 7, b"\1")),
    "a tensor at no multiple of the alignment": header(tensors=(tensor("t", (1,), offset=4),)) + bytes(100),
    "tensors that overlap": header(tensors=(tensor("t", (9,)), tensor("u", (1,), offset=32))) + bytes(100),
    "an alignment that is text": header(pair("general.alignment", STRING, text("8"))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_costs_nothing_and_is_an_error(tmp_path, name):
    path = written(tmp_path / "model.gguf", HOSTILE[name])
    before = time.thread_time()
    peak, error = peak_of(path)
    assert error is not None
    assert str(path) in str(error)
    assert peak < 2**20
    assert time.thread_time() - before < 1


LARGE = {
    "a million short texts": (pair("k", ARRAY, array(STRING, 2**20, bytes(8 * 2**20))), Unread),
    "eight million short texts": (pair("k", ARRAY, array(STRING, 2**23, bytes(8 * 2**23))), None),
    "one long text": (pair("k", STRING, text(b"x" * 2**23)), Unread),
    "a short text": (pair("k", STRING, text(b"\xff" * 60_000)), str),
    "a million numbers": (pair("k", ARRAY, array(U64, 2**20, bytes(2**23))), Unread),
    "a thousand numbers": (pair("k", ARRAY, array(U64, 1000, bytes(8000))), tuple),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_value_stays_in_the_file(tmp_path, name):
    data, kind = LARGE[name]
    path = written(tmp_path / "model.gguf", header(data))
    peak, error = peak_of(path)
    assert peak < 2**20
    if kind is None:
        assert "claims" in str(error)
    else:
        assert isinstance(read_gguf(path).metadata["k"], kind)


def test_many_values_stay_in_the_file_once_the_budget_is_spent(tmp_path):
    pairs = [pair(f"k{index}", STRING, text(b"\xff" * 4000)) for index in range(4000)]
    path = written(tmp_path / "model.gguf", header(*pairs))
    peak, error = peak_of(path)
    assert error is None
    assert peak < HOSTILE_BYTES
    metadata = read_gguf(path).metadata
    assert isinstance(metadata["k0"], str)
    assert isinstance(metadata["k3999"], Unread)


def test_as_many_keys_and_tensors_as_are_allowed_stay_in_bounds(tmp_path):
    pairs = [pair(f"{index:0256}", U64, bytes(8)) for index in range(8192)]
    tensors = tuple(tensor(f"{index:0256}", (1, 1, 1, 1), 999, 2**40 + 32 * index) for index in range(16_384))
    peak, error = peak_of(written(tmp_path / "model.gguf", header(*pairs, tensors=tensors)))
    assert error is None
    assert peak < 4 * HOSTILE_BYTES


MOST_RESIDENT = """
import sys
from llamatelemetry.llama.gguf import read_gguf
def most_resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1024
before = most_resident()
read_gguf(sys.argv[1])
print(most_resident() - before)
"""


def test_walking_through_a_large_vocabulary_does_not_fill_memory(tmp_path):
    """Pages of a mapped file count as memory of the process while they are mapped."""
    path = tmp_path / "model.gguf"
    words = 2**17
    path.write_bytes(header(pair("k", ARRAY, array(STRING, words, text(bytes(1016)) * words))))
    result = subprocess.run([sys.executable, "-c", MOST_RESIDENT, path], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 16, "megabytes, of a file of 128"


def test_a_sparse_file_of_four_gigabytes_opens_at_once(tmp_path, model_path):
    path = tmp_path / "model.gguf"
    start = min(tensor.offset for tensor in read_gguf(model_path).tensors)
    with model_path.open("rb") as source, path.open("wb") as copy:
        copy.write(source.read(start))
        copy.truncate(4 * 2**30)
    before = time.thread_time()
    peak, error = peak_of(path)
    assert error is None
    assert peak < 2**20
    # 15 ms without tracemalloc; the bound is for it and for a busy machine.
    assert time.thread_time() - before < 1
    assert read_gguf(path).parameters == 134_515_008


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (b"", "empty"),
        (b"G", "not a GGUF file"),
        (b"GGUF", "cut off"),
        (b"GGUF\3\0\0\0", "cut off"),
        (b"GGUF\1\0\0\0" + bytes(100), "version 1"),
        (b"GGUF\4\0\0\0" + bytes(100), "version 4"),
        (b"GGUF\0\0\0\0" + bytes(100), "version 0"),
        (b"GGUF\0\0\0\3" + bytes(100), "big-endian"),
        (b"PK\3\4" + bytes(100), "zip"),
        (struct.pack("<Q", 5000) + b'{"__metadata__":' + bytes(100), "safetensors"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\n  <HTML>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"tjgg\3\0\0\0", "GGJT"),
        (bytes(100), "zeros"),
        (b"\x01hello\n" + bytes(100), r"hello"),
    ],
)
def test_what_is_no_gguf_file_is_named(tmp_path, start, says):
    with pytest.raises(ModelFileError, match=says):
        read_gguf(written(tmp_path / "model.gguf", start))


def test_version_2_is_read(tmp_path):
    path = written(tmp_path / "model.gguf", header(pair("general.name", STRING, text("old")), version=2))
    assert (read_gguf(path).version, read_gguf(path).name) == (2, "old")


def test_what_is_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, says in (
        (tmp_path / "none.gguf", "does not exist"),
        (tmp_path, "is a directory"),
        (tmp_path / "pipe", "not a regular file"),
        (Path("a\0b"), "cannot be opened"),
    ):
        with pytest.raises(ModelFileError, match=says) as caught:
            read_gguf(path)
        assert caught.value.path == str(path)
        with pytest.raises(ModelFileError, match=says):
            sha256_of(path)


def test_a_cut_off_download_names_what_is_missing(tmp_path, model_path):
    path = tmp_path / "model.gguf"
    with model_path.open("rb") as source:
        path.write_bytes(source.read(2**21))
    with pytest.raises(ModelFileError, match=r"cut off: it has 2097152 bytes.*tensor"):
        read_gguf(path)


def facts(tmp_path: Path, *pairs: bytes, tensors: tuple[bytes, ...] = ()):
    return read_gguf(written(tmp_path / "model.gguf", header(*pairs, tensors=tensors) + bytes(4096)))


def whole(key: str, value: int) -> bytes:
    return pair(key, U32, struct.pack("<I", value))


ARCHITECTURE = pair("general.architecture", STRING, text("own"))


def test_what_a_file_does_not_say_is_none(tmp_path):
    model = facts(tmp_path)
    assert model.architecture is None
    assert model.name is None
    assert model.quantization is None
    assert model.parameters is None
    assert model.context_length is None
    assert model.head_count_kv is None
    assert model.kv_bytes_per_token is None


def test_without_a_file_type_most_weights_decide_the_quantization(tmp_path):
    tensors = (tensor("a", (32,), 0), tensor("b", (32, 2), 2, 128), tensor("c", (32,), 0, 192))
    assert facts(tmp_path, tensors=(*tensors, tensor("d", (32,), 2, 320))).quantization == "Q4_0"
    assert facts(tmp_path, whole("general.file_type", 999), tensors=tensors[:2]).quantization == "Q4_0"


@pytest.mark.parametrize(("number", "name"), [(15, "Q4_K_M"), (15 + 1024, "Q4_K_M"), (0, "F32"), (38, "MXFP4_MOE")])
def test_the_file_type_is_the_quantization(tmp_path, number, name):
    assert facts(tmp_path, whole("general.file_type", number), tensors=(tensor("a", (32,), 2),)).quantization == name


@pytest.mark.parametrize("kind", gguf.PoolingType)
def test_the_way_of_pooling_has_its_name(tmp_path, kind):
    assert facts(tmp_path, ARCHITECTURE, whole("own.pooling_type", kind)).pooling == kind.name.lower()


def test_an_unknown_way_of_pooling_is_none(tmp_path):
    assert facts(tmp_path, ARCHITECTURE, whole("own.pooling_type", 99)).pooling is None
    assert facts(tmp_path).pooling is None


def test_one_part_of_a_split_model_does_not_know_its_parameters(tmp_path):
    split = pair("split.count", 2, struct.pack("<H", 3))
    assert facts(tmp_path, split, tensors=(tensor("a", (32,)),)).parameters is None


def test_a_tensor_of_an_unknown_type_is_listed_without_its_size(tmp_path):
    (found,) = facts(tmp_path, tensors=(tensor("a", (32,), 999),)).tensors
    assert (found.type, found.size_bytes, found.elements) == ("type 999", None, 32)


def test_kv_cache_counts_heads_block_by_block(tmp_path):
    heads = pair("own.attention.head_count_kv", ARRAY, array(U32, 3, struct.pack("<3I", 2, 0, 4)))
    model = facts(
        tmp_path,
        ARCHITECTURE,
        whole("own.block_count", 3),
        whole("own.embedding_length", 64),
        whole("own.attention.head_count", 4),
        heads,
    )
    assert model.head_count_kv == 4
    assert model.kv_bytes_per_token == (2 + 0 + 4) * (16 + 16) * 2


def test_kv_cache_uses_the_sizes_of_keys_and_values_if_given(tmp_path):
    model = facts(
        tmp_path,
        ARCHITECTURE,
        whole("own.block_count", 3),
        whole("own.embedding_length", 64),
        whole("own.attention.head_count", 4),
        whole("own.attention.key_length", 32),
        whole("own.attention.value_length", 8),
    )
    assert model.kv_bytes_per_token == 3 * 4 * (32 + 8) * 2


def test_absurd_sizes_are_nobodys_facts(tmp_path):
    most = struct.pack("<Q", HUGE)
    model = facts(tmp_path, ARCHITECTURE, pair("own.context_length", U64, most), pair("own.block_count", U64, most))
    assert model.context_length is None
    assert model.block_count is None
    assert model.metadata["own.context_length"] == HUGE


def test_the_digest_is_the_whole_files(tmp_path):
    data = random.Random(1).randbytes(3 * 2**20 + 17)
    path = written(tmp_path / "any", data)
    seen = []
    assert sha256_of(path, lambda done, total: seen.append((done, total))) == hashlib.sha256(data).hexdigest()
    assert seen[-1] == (len(data), len(data))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_reading_leaves_no_file_open(tmp_path, small_file):
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    good, bad = written(tmp_path / "good", small_file), written(tmp_path / "bad", small_file[:50])
    before = open_files()
    for _ in range(3):
        read_gguf(good)
        with pytest.raises(ModelFileError):
            read_gguf(bad)
    assert open_files() == before


def test_the_header_reader_needs_no_numpy():
    code = "import sys, llamatelemetry.llama.gguf; assert not {'numpy', 'gguf', 'requests'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
