from __future__ import annotations

import json
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from llamatelemetry.errors import ModelFileError
from llamatelemetry.untrusted.files import open_regular
from llamatelemetry.untrusted.safetensors_header import StoredTensor, read_header, read_safetensors

ONE = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
DTYPES = {"F32": np.float32, "F16": np.float16, "U8": np.uint8, "I64": np.int64, "BOOL": np.bool_}


def file_of(header: object, numbers: int = 24, *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(numbers)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def read_or_error(path: Path) -> tuple[tuple[StoredTensor, ...] | None, ModelFileError | None]:
    try:
        return read_safetensors(path), None
    except ModelFileError as error:
        return None, error


def test_a_tensor_is_known_by_its_name_type_sizes_and_bytes(tmp_path):
    path = written(tmp_path / "model.safetensors", file_of({"__metadata__": {"format": "pt"}, "a.weight": ONE}))
    (tensor,) = read_safetensors(path)
    assert (tensor.name, tensor.dtype, tensor.shape, tensor.size_bytes) == ("a.weight", "F32", (2, 3), 24)
    assert tensor.elements == 6
    assert (tensor.path, tensor.end) == (path, path.stat().st_size)


def test_a_tensor_that_holds_nothing_may_stand_anywhere_between_others(tmp_path):
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    tensors = read_safetensors(written(tmp_path / "model.safetensors", file_of({"a": ONE, "nothing": empty})))
    assert [tensor.name for tensor in tensors] == ["nothing", "a"]


def test_an_open_file_stays_where_it_stands(tmp_path):
    path = written(tmp_path / "model.safetensors", file_of({"a": ONE}))
    with open_regular(path) as file:
        file.seek(3)
        assert read_header(path, file) == read_safetensors(path)
        assert file.tell() == 3


def test_a_number_alone_and_nothing_at_all_are_tensors_too(tmp_path):
    header = {
        "scalar": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]},
        "empty": {"dtype": "F32", "shape": [0, 5], "data_offsets": [8, 8]},
    }
    tensors = read_safetensors(written(tmp_path / "model.safetensors", file_of(header, 8)))
    assert [(tensor.name, tensor.elements) for tensor in tensors] == [("scalar", 1), ("empty", 0)]


def test_a_type_of_the_future_is_no_error(tmp_path):
    header = {"a": {"dtype": "F5_E3M1", "shape": [16], "data_offsets": [0, 10]}}
    (tensor,) = read_safetensors(written(tmp_path / "model.safetensors", file_of(header, 10)))
    assert (tensor.dtype, tensor.size_bytes) == ("F5_E3M1", 10)


def test_types_of_less_than_a_byte_are_counted_in_bits(tmp_path):
    header = {"a": {"dtype": "F4", "shape": [3, 2], "data_offsets": [0, 3]}}
    (tensor,) = read_safetensors(written(tmp_path / "model.safetensors", file_of(header, 3)))
    assert (tensor.elements, tensor.size_bytes) == (6, 3)


tensors_of_any_kind = st.dictionaries(
    st.text(max_size=20).filter(lambda name: name != "__metadata__"),
    st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=3)),
    max_size=5,
)


@given(tensors_of_any_kind)
def test_what_the_formats_own_library_writes_is_read(tmp_path_factory, tensors):
    arrays = {name: np.full(shape, len(name), DTYPES[dtype]) for name, (dtype, shape) in tensors.items()}
    path = written(tmp_path_factory.getbasetemp() / "written.safetensors", save(arrays))
    found = {tensor.name: (tensor.dtype, tensor.shape, tensor.size_bytes) for tensor in read_safetensors(path)}
    assert found == {name: (tensors[name][0], array.shape, array.nbytes) for name, array in arrays.items()}
    content = path.read_bytes()
    assert all(content[tensor.start : tensor.end] == arrays[tensor.name].tobytes() for tensor in read_safetensors(path))


@settings(max_examples=400)
@given(st.data())
def test_a_changed_header_that_the_formats_own_library_reads_is_read_the_same(tmp_path_factory, data):
    good = file_of({"a": ONE, "b": {"dtype": "U8", "shape": [4], "data_offsets": [24, 28]}}, 28)
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 29))] = data.draw(st.integers(0, 255))
    path = written(tmp_path_factory.getbasetemp() / "damaged.safetensors", bytes(damaged))
    tensors, _ = read_or_error(path)
    try:
        known = dict(safetensors.deserialize(bytes(damaged)))
    except safetensors.SafetensorError:
        return  # It also refuses types that it does not know, and metadata that nobody reads.
    assert tensors is not None
    found = {tensor.name: (list(tensor.shape), tensor.size_bytes) for tensor in tensors}
    assert found == {name: (tensor["shape"], len(tensor["data"])) for name, tensor in known.items()}


@given(st.binary(max_size=200))
def test_any_bytes_are_an_error_that_names_the_file(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    for content in (data, file_of(data, 0), file_of(b"{" + data, 0)):
        tensors, error = read_or_error(written(path, content))
        assert tensors == () or str(path) in str(error)


REFUSED = {
    "is cut off: it has 0 bytes": b"",
    "is cut off: it has 7 bytes": bytes(7),
    "its header alone takes 100": file_of(b"{}", 0, length=100),
    "would have 18446744073709551615 bytes": file_of(b"{}", 0, length=2**64 - 1),
    "would have 8388609 bytes": file_of(b"{}", 0, length=2**23 + 1),
    "does not start with {": file_of(b"[]", 0),
    "it does not start with {": file_of(b" {}", 0),
    "is not JSON": file_of(b"{'a'}", 0),
    "not UTF-8": file_of(b'{"\xff": 1}', 0),
    "is not JSON: a bracket is left open": file_of(b"{", 0),
    "nests deeper": file_of(b'{"a":' + b"[" * 99 + b"]" * 99 + b"}", 0),
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 100\n",
    "overlap": file_of({"a": ONE, "b": ONE}),
    "leave gaps": file_of({"a": {**ONE, "data_offsets": [8, 32]}}, 32),
    "is cut off: it holds 23 bytes of numbers, and its header tells of 24; download": file_of({"a": ONE}, 23),
    "has 1 bytes that belong to no tensor": file_of({"a": ONE}, 25),
    "which are not 2x3 numbers of F32": file_of({"a": {**ONE, "data_offsets": [0, 23]}}, 23),
    "a name of 1025 characters": file_of({"a" * 1025: ONE}),
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_is_no_whole_safetensors_file_is_told_why(tmp_path, says):
    path = written(tmp_path / "model.safetensors", REFUSED[says])
    with pytest.raises(ModelFileError) as caught:
        read_safetensors(path)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {},
        {**ONE, "dtype": 32},
        {**ONE, "dtype": "f32\n"},
        {**ONE, "shape": 6},
        {**ONE, "shape": [6.0]},
        {**ONE, "shape": [True, 6]},
        {**ONE, "shape": [-1, -6]},
        {**ONE, "shape": [1] * 33},
        {**ONE, "shape": [2**64]},
        {**ONE, "data_offsets": [0]},
        {**ONE, "data_offsets": [24, 0]},
        {**ONE, "data_offsets": [-24, 0]},
        {**ONE, "data_offsets": ["0", "24"]},
        {**ONE, "data_offsets": {"0": 24}},
    ],
)
def test_a_tensor_that_is_described_wrongly_is_named(tmp_path, entry):
    path = written(tmp_path / "model.safetensors", file_of({"model.norm": entry}))
    with pytest.raises(ModelFileError, match=r"tensor 'model\.norm' is not described"):
        read_safetensors(path)


def test_more_numbers_than_there_can_be_are_refused_whatever_their_type(tmp_path):
    header = {"a": {"dtype": "NEW", "shape": [193], "data_offsets": [0, 24]}}
    with pytest.raises(ModelFileError, match="which are not"):
        read_safetensors(written(tmp_path / "model.safetensors", file_of(header)))


HOSTILE = {
    "empty objects": b"{" + b",".join(b'"%d":{}' % number for number in range(600_000)) + b"}",
    "arrays in arrays": b'{"a":' + b"[" * 2**21 + b"]" * 2**21 + b"}",
    "empty arrays": b'{"a":[' + b"[]," * 2**21 + b"[]]}",
    "short texts": b'{"a":[' + b'"",' * 2**21 + b'""]}',
    "a letter that makes all others wide": b'{"a":"' + b"x" * 2**22 + '\N{GRINNING FACE}"}'.encode(),
    "one name": b'{"' + b"x" * 2**22 + b'":{}}',
    "long numbers": b'{"a":[' + b"9" * 2**22 + b"]}",
    "many sizes": json.dumps({"a": {**ONE, "shape": [1] * 400_000}}).encode(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_ends_soon_and_takes_little(tmp_path, name):
    path = written(tmp_path / "model.safetensors", file_of(HOSTILE[name], 0))
    before = time.thread_time()
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError):
            read_safetensors(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20
    assert time.thread_time() - before < 3


def test_the_numbers_are_never_read(tmp_path):
    """A sparse file of a terabyte is as good as one with numbers in it."""
    size = 2**40
    path = tmp_path / "model.safetensors"
    start = file_of({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}, 0)
    with path.open("wb") as file:
        file.write(start)
        file.truncate(len(start) + size)
    (tensor,) = read_safetensors(path)
    assert tensor.size_bytes == size
