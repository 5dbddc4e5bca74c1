"""Every file of the corpus, made here byte by byte: read this to see what a file is, and run it to write them anew.

A name says what is wrong with its file; what begins with ``fine-`` has nothing wrong with it, and shows that the
readers read. Sizes are small on purpose: what a file claims is what could cost, and that needs no bytes.

::

    python tests/hostile/corpus.py          # writes gguf/, safetensors/ and json/ beside this script
    python tests/hostile/corpus.py --check  # fails where they are not what it makes
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
"""Types of GGUF's metadata."""
_F16: Final = 1
_F32: Final = 0
_HALF: Final = 2**63
_LAST: Final = 2**64 - 1
_MOST: Final = 2**32 - 1

_LFS: Final = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 1\n"
_PAGE: Final = b"<!doctype html><html><title>404</title></html>"


def u32(number: int) -> bytes:
    """Four bytes, little endian."""
    return struct.pack("<I", number)


def u64(number: int) -> bytes:
    """Eight bytes, little endian."""
    return struct.pack("<Q", number)


def text(content: bytes, length: int | None = None) -> bytes:
    """A text of GGUF, which may claim another length than it has."""
    return u64(len(content) if length is None else length) + content


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    """One key of the metadata."""
    return text(key) + u32(kind) + value


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    """An array's type, length and elements."""
    return u32(kind) + u64(count) + values


def tensor(name: bytes, shape: tuple[int, ...], kind: int = _F16, offset: int = 0) -> bytes:
    """What is said of one tensor."""
    return text(name) + u32(len(shape)) + b"".join(map(u64, shape)) + u32(kind) + u64(offset)


def head(*, tensors: int = 0, keys: int = 0, version: int = 3) -> bytes:
    """The beginning of a GGUF file."""
    return b"GGUF" + u32(version) + u64(tensors) + u64(keys)


_EMBEDDING: Final = b"token_embd.weight"
_KEYS: Final[Mapping[bytes, tuple[int, bytes]]] = {
    b"general.architecture": (STRING, text(b"llama")),
    b"llama.block_count": (U32, u32(1)),
    b"llama.embedding_length": (U32, u32(32)),
    b"llama.attention.head_count": (U32, u32(1)),
}
_WEIGHTS: Final = bytes(range(64)) * 2


def model(
    extra: bytes = b"",
    *,
    tensors: tuple[bytes, ...] = (tensor(_EMBEDDING, (32, 2)),),
    weights: bytes = _WEIGHTS,
    more: int = 1,
    **instead: tuple[int, bytes],
) -> bytes:
    """A GGUF file that is a model of one matrix, with keys after the needed ones.

    Args:
        extra: Keys to add, or what stands in their place.
        tensors: What is said of the tensors.
        weights: What follows, at the next multiple of 32.
        more: How many keys ``extra`` has.
        instead: Values for needed keys, by the last part of their names.
    """
    keys = {key: instead.get(key.rpartition(b".")[2].decode(), value) for key, value in _KEYS.items()}
    before = head(tensors=len(tensors), keys=len(keys) + (more if extra else 0))
    before += b"".join(pair(key, *value) for key, value in keys.items()) + extra + b"".join(tensors)
    return before + bytes(-len(before) % 32) + weights


def gguf_files() -> Iterator[tuple[str, bytes]]:
    """Names of GGUF files to their content."""
    fine = model()
    yield "fine-model", fine
    sums, counts = (tensor(b"a." + name, (1,), _F32, offset) for name, offset in ((b"in_sum2", 0), (b"counts", 32)))
    yield "fine-importance", model(tensors=(sums, counts), weights=struct.pack("<f28xf", 1, 1))
    yield "importance-of-nothing", model(tensors=(sums, counts), weights=struct.pack("<f28xf", 1, float("nan")))
    yield from _cut_off(fine)
    yield from _not_gguf(fine)
    yield from _counts()
    yield from _values()
    yield from _tensors()
    yield from _nonsense()


def _cut_off(fine: bytes) -> Iterator[tuple[str, bytes]]:
    key = 24
    name = fine.index(text(_EMBEDDING))
    dimensions = name + 8 + len(_EMBEDDING)
    for place, at in {
        "magic": 3,
        "version": 6,
        "tensor-count": 12,
        "key-count": 20,
        "length-of-a-key": key + 4,
        "key": key + 8 + 5,
        "type-of-a-value": key + 8 + 20 + 2,
        "length-of-a-text": key + 8 + 20 + 4 + 3,
        "text": key + 8 + 20 + 4 + 8 + 2,
        "tensor-name": name + 8 + 3,
        "dimension-count": dimensions + 2,
        "sizes": dimensions + 4 + 9,
        "offset": dimensions + 4 + 16 + 4 + 7,
        "weights": len(fine) - 1,
    }.items():
        yield f"cut-off-in-{place}", fine[:at]


def _not_gguf(fine: bytes) -> Iterator[tuple[str, bytes]]:
    yield "empty", b""
    yield "git-lfs-pointer", _LFS
    yield "web-page", _PAGE
    yield "magic-reversed", b"FUGG" + fine[4:]
    yield "version-1", fine[:4] + u32(1) + fine[8:]
    yield "version-2-to-the-32-less-1", fine[:4] + u32(_MOST) + fine[8:]
    yield "big-endian", b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + fine[24:]


def _counts() -> Iterator[tuple[str, bytes]]:
    # n_kv and n_tensors: llama.cpp multiplied them by the size of a struct before it allocated.
    for name, count in {
        "2-to-the-63": _HALF,
        "2-to-the-64-less-1": _LAST,
        "that-overflows-times-48": 2**64 // 48 + 1,
    }.items():
        yield f"key-count-{name}", head(keys=count) + pair(b"a", U8, b"\1")
        yield f"tensor-count-{name}", head(tensors=count) + tensor(b"a", (32,))
    # The length of a text: llama.cpp allocated it plus one, which is none of 2**64 - 1, and read all of it.
    yield "key-length-2-to-the-64-less-1", head(keys=1) + text(b"abcd", _LAST)
    yield "text-length-2-to-the-64-less-1", head(keys=1) + pair(b"general.name", STRING, text(b"abcd", _LAST))
    yield "text-length-2-to-the-63", head(keys=1) + pair(b"general.name", STRING, text(b"abcd", _HALF))
    yield "tensor-name-length-2-to-the-64-less-1", head(tensors=1) + text(b"abcd", _LAST)
    yield "text-length-that-wraps-the-position", head(keys=1) + pair(b"a", STRING, text(b"abcd", 2**64 - 45))
    for name, kind, count in (
        ("of-u8-of-2-to-the-64-less-1", U8, _LAST),
        ("of-u64-that-overflows-times-8", U64, 2**61 + 1),
        ("of-texts-that-overflows-times-16", STRING, 2**60 + 1),
    ):
        yield f"array-{name}", head(keys=1) + pair(b"a", ARRAY, array(kind, count, bytes(16)))
    yield "array-of-a-text-that-wraps", head(keys=1) + pair(b"a", ARRAY, array(STRING, 2, text(b"", 2**64 - 8) * 2))


def _values() -> Iterator[tuple[str, bytes]]:
    yield "value-of-unknown-type", model(pair(b"a", 13, bytes(8)))
    yield "array-in-an-array", model(pair(b"a", ARRAY, array(ARRAY, 1, array(U8, 1, b"\1"))))
    yield "array-nested-40-deep", model(pair(b"a", ARRAY, array(ARRAY, 1) * 40 + array(U8, 0)))
    yield "key-not-utf8", model(pair(b"\xff\xfe", U8, b"\1"))
    yield "key-twice", model(pair(b"a", U8, b"\1") * 2, more=2)
    yield "text-not-utf8", model(pair(b"general.name", STRING, text(b"\xff\xfe\xc0\x80")))
    yield "text-with-nul-and-escapes", model(pair(b"general.name", STRING, text(b"\0\x1b]0;x\x07\x1b[2J")))
    yield "numbers-not-finite", model(pair(b"a", ARRAY, array(F64, 2, struct.pack("<2d", float("nan"), float("inf")))))
    yield "alignment-2-to-the-63", model(pair(b"general.alignment", U64, u64(_HALF)))
    yield "alignment-true", model(pair(b"general.alignment", BOOL, b"\1"))


def _tensors() -> Iterator[tuple[str, bytes]]:
    first = tensor(b"a", (32,))
    for name, described in {
        "dimensions-2-to-the-32-less-1": text(b"a") + u32(_MOST) + u64(32) + u32(_F16) + u64(0),
        "size-zero": tensor(b"a", (32, 0)),
        "sizes-that-overflow-to-zero": tensor(b"a", (2**32, 2**32)),
        "sizes-that-overflow-to-32": tensor(b"a", (32, 2**62 + 1, 4)),
        "offset-that-overflows": tensor(b"a", (32,), offset=2**64 - 32),
        "offset-unaligned": tensor(b"a", (32,), offset=7),
        "type-unknown": tensor(b"a", (32,), 9999),
        "row-no-multiple-of-a-block": tensor(b"a", (33,), 8),
        "name-with-escapes": tensor(b"\x1b[2J\n\0", (33,), 8),
        "block-2-to-the-64": tensor(b"blk.18446744073709551616.a.weight", (32,)),
    }.items():
        yield f"tensor-{name}", model(tensors=(described,))
    yield "tensors-of-one-name", model(tensors=(first, tensor(b"a", (32,), offset=64)))
    yield "tensors-that-overlap", model(tensors=(first, tensor(b"b", (32,))))
    yield "tensors-out-of-order", model(tensors=(tensor(b"a", (32,), offset=64), tensor(b"b", (32,))))


def _nonsense() -> Iterator[tuple[str, bytes]]:
    """What is well formed, and no model."""
    yield "blocks-2-to-the-32-less-1", model(block_count=(U32, u32(_MOST)))
    yield "heads-nan", model(head_count=(ARRAY, array(F32, 1, struct.pack("<f", float("nan")))))
    yield "architecture-unknown", model(architecture=(STRING, text(b"\x1b[2J\0")))
    yield "parts-65535", model(pair(b"split.count", U16, b"\xff\xff"))
    yield "lineage-of-no-trace", model(pair(b"llamatelemetry.lineage.trace_id", STRING, text(b"0" * 32)))
    yield "weights-not-finite", model(weights=b"\x00\x7e\x00\x7c" * 32)


def safetensors(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file, which may claim another length of its header than it has."""
    return u64(len(header) if length is None else length) + header + data


_LORA: Final = "base_model.model.q.lora_{}.weight"


def _entry(shape: list[Any], offsets: list[Any], dtype: Any = "F16") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def _adapter(data: bytes = bytes(16), **instead: Any) -> bytes:
    """An adapter of one layer, with other facts of its A."""
    entries = {_LORA.format("A"): _entry([1, 4], [0, 8]) | instead, _LORA.format("B"): _entry([4, 1], [8, 16])}
    return safetensors(json.dumps(entries).encode(), data)


def safetensors_files() -> Iterator[tuple[str, bytes]]:
    """Names of safetensors files to their content."""
    fine = _adapter()
    header = fine[8:-16]
    yield "fine-adapter", fine
    yield "empty", b""
    yield "git-lfs-pointer", _LFS
    yield "web-page", _PAGE
    for place, at in {"length": 7, "header": 40, "weights": len(fine) - 1}.items():
        yield f"cut-off-in-{place}", fine[:at]
    yield "cut-off-before-weights", fine[:-16]
    yield "header-length-one-too-many", safetensors(header, bytes(16), len(header) + 17)
    yield "header-length-2-to-the-63", safetensors(header, bytes(16), _HALF)
    yield "header-length-2-to-the-64-less-1", safetensors(header, bytes(16), _LAST)
    for name, wrong in {
        "a-list": b"[]",
        "a-number-of-5000-digits": b"9" * 5000,
        "not-utf8": b'{"\xff": 1}',
        "nested-2000-deep": b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}",
        "of-nothing-but-metadata": b'{"__metadata__": {"a": [1e999, null]}}',
    }.items():
        yield f"header-{name}", safetensors(wrong)
    twice = f'{{"{_LORA.format("A")}": {json.dumps(_entry([1, 4], [0, 8]))}, '.encode()
    yield "name-twice", safetensors(twice + header[1:], bytes(16))
    yield (
        "name-lone-surrogate",
        safetensors(rb'{"\ud800": ' + json.dumps(_entry([4], [0, 9])).encode() + b"}", bytes(8)),
    )
    yield "tensors-that-overlap", _adapter(data_offsets=[8, 16])
    yield "tensors-with-a-gap", safetensors(json.dumps({"a": _entry([4], [8, 16])}).encode(), bytes(16))
    for name, instead in {
        "offset-2-to-the-63": {"data_offsets": [_HALF, _HALF + 8]},
        "offset-that-overflows": {"data_offsets": [_LAST, 7]},
        "offset-negative": {"data_offsets": [-8, 0]},
        "offset-of-5000-digits": {"data_offsets": [0, 8], "shape": "@"},
        "offsets-backwards": {"data_offsets": [8, 0]},
        "size-2-to-the-63": {"shape": [_HALF, 2]},
        "sizes-that-overflow-to-4": {"shape": [2**32, 2**32, 4]},
        "type-unknown": {"dtype": "F17"},
    }.items():
        yield f"tensor-{name}", _digits(_adapter, instead)


def _digits(make: Any, instead: dict[str, Any]) -> bytes:
    """What json.dumps has no words for: a number of 5,000 digits, and one past the largest."""
    made: bytes = make(**instead)
    header = made[8:-16].replace(b'"@"', b"9" * 5000).replace(b"Infinity", b"1e999")
    return safetensors(header, bytes(16))


# Written out: the committed files are not to change with the small models of other tests.
_CONFIG: Final = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "vocab_size": 264,
}
_LORA_CONFIG: Final = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q"]}
_RUN: Final = {
    "run_id": "r1",
    "pipeline": "p",
    "state": "succeeded",
    "started_ns": 1,
    "stages": [],
}
_DEPLOYMENT: Final = {
    "name": "d",
    "id": "d1",
    "artifact": "m.gguf",
    "sha256": "a" * 64,
    "standing": "verified",
    "public_key": None,
    "url": "http://127.0.0.1:1",
    "port": 1,
    "options": {},
    "supervisor": {"pid": 1, "started": "b:1"},
    "server": None,
    "log": "l",
    "started_ns": 1,
}
_MANIFEST: Final = {
    "format": "llamatelemetry.artifact",
    "version": 1,
    "name": "m",
    "kind": "gguf",
    "layout": "file",
    "created_at": "2026-01-01T00:00:00.000000000Z",
    "files": [{"path": "m.gguf", "size_bytes": 1, "sha256": "a" * 64, "media_type": "application/gguf"}],
    "parents": [],
    "origin": {},
    "parameters": {},
    "tools": {},
}
_VARIANTS: Final = {"variants": [{"name": "m", "size_bytes": 1, "perplexity": {"value": 1.0, "low": 0.5, "high": 2}}]}
_TRIALS: Final = {"format": "llamatelemetry.divergences", "measured": {"a": 0.5}}
_ENDING: Final = {"reason": "it was stopped", "wanted": True, "ended_ns": 1}

_WRONG: Final[Mapping[str, tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]]]]] = {
    "config": (
        _CONFIG,
        {
            "architecture-with-escapes": {"architectures": ["\x1b[2J\0\ud800"], "model_type": "\x1b[2J\0\ud800"},
            "epsilon-infinite": {"rms_norm_eps": float("inf")},
            "rope-of-nonsense": {"rope_scaling": {"rope_type": ["\ud800"], "factor": {}}},
            "quantized-by-nonsense": {"quantization_config": {"quant_method": "\x1b[2J\ud800", "bits": "@"}},
        },
    ),
    "adapter": (
        _LORA_CONFIG,
        {
            "rank-2-to-the-63": {"r": _HALF},
            "base-with-escapes": {"base_model_name_or_path": "\x1b[2J\0\ud800"},
            "flag-with-escapes": {"use_dora": "\x1b[2J\0\ud800"},
        },
    ),
    "tokenizer": (
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "pre_tokenizer": {"type": "ByteLevel"}},
        {
            "id-2-to-the-63": {"model": {"type": "BPE", "vocab": {"a": _HALF}, "merges": []}},
            "token-lone-surrogate": {"model": {"type": "BPE", "vocab": {"\ud800": 0}, "merges": []}},
            "merge-of-nothing": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [[], ["a"], 1]}},
            "pattern-of-nonsense": {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(" * 50}}},
        },
    ),
    "manifest": (
        _MANIFEST,
        {
            "path-that-leads-out": {"files": [_MANIFEST["files"][0] | {"path": "../../etc/passwd"}]},  # type: ignore[index]
            "size-2-to-the-63": {"files": [_MANIFEST["files"][0] | {"size_bytes": _HALF}]},  # type: ignore[index]
            "unknown-field": {"\x1b[2J\0\ud800": 1},
        },
    ),
    "run": (
        _RUN,
        {
            "stages-null": {"stages": [None, {"resources": 1}]},
            "error-with-escapes": {"error": "\x1b[2J\0\ud800"},
        },
    ),
    "deployment": (
        _DEPLOYMENT,
        {
            "port-infinite": {"port": float("inf")},
            "name-that-leads-out": {"name": "../../d"},
            "digest-as-a-list": {"sha256": [1]},
            "needs-as-text": {"needs": "all"},
            "process-everybody": {"supervisor": {"pid": -1, "started": "b:1"}},
        },
    ),
    "variants": (_VARIANTS, {}),
    "trials": (_TRIALS, {"infinite": _TRIALS | {"measured": {"a": float("inf")}}}),
    "example": ({"text": "a"}, {}),
    "ending": (_ENDING, {"reason-as-a-list": {"reason": [[]]}, "time-infinite": {"ended_ns": float("inf")}}),
}


def json_files() -> Iterator[tuple[str, bytes]]:
    """Names of JSON files to their content."""
    yield "empty", b""
    yield "git-lfs-pointer", _LFS
    yield "web-page", _PAGE
    for name, content in {
        "a-list": b"[1]",
        "an-empty-object": b"{}",
        "nan": b'{"r": NaN, "started_ns": NaN, "port": NaN}',
        "number-of-5000-digits": b'{"r": ' + b"9" * 5000 + b"}",
        "number-past-the-largest": b'{"r": 1e999, "num_hidden_layers": 1e999}',
        "nested-2000-deep": b"[" * 2000 + b"]" * 2000,
        "brackets-never-closed": b"[" * 2000,
        "lone-surrogate": rb'{"\ud800": "\udfff"}',
        "not-utf8": b'{"a": "\xff\xfe"}',
        "utf-16": '{"a": 1}'.encode("utf-16"),
        "nul-escaped": rb'{"a\u0000b": "\u0000"}',
        "nothing-but-nul": bytes(64),
        "cut-off-in-a-text": b'{"a": "b',
        "key-twice": b'{"r": 1, "r": 99999999999, "peft_type": "LORA", "peft_type": 1, "run_id": "a", "run_id": 1}',
    }.items():
        yield name, content
    for kind, (fine, wrongs) in _WRONG.items():
        written = _sealed if kind == "manifest" else _json
        yield f"fine-{kind}", written(fine)
        for name, wrong in wrongs.items():
            yield f"{kind}-{name}", written({**fine, **wrong})


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode().replace(b'"@"', b"9" * 5000).replace(b"Infinity", b"1e999")


def _sealed(manifest: Mapping[str, Any]) -> bytes:
    """A manifest whose seal is right, whatever it says: nothing but its fields speaks against it."""
    unsealed = {key: value for key, value in manifest.items() if key != "seal"}
    return _canonical({**unsealed, "seal": hashlib.sha256(_canonical(unsealed)).hexdigest()})


def _canonical(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode().replace(b"Infinity", b"1e999")


KINDS: Final = {"gguf": gguf_files, "safetensors": safetensors_files, "json": json_files}


def corpus(kind: str) -> dict[str, bytes]:
    """Files of a kind to their content.

    Args:
        kind: One of :data:`KINDS`.
    """
    made: dict[str, bytes] = {}
    for name, content in KINDS[kind]():
        if name in made:
            raise ValueError(f"two files are called {name}")
        made[f"{name}.{kind}"] = content
    return made


def differences() -> list[str]:
    """What is not as it is made here: files that are missing, that differ, and that nobody makes."""
    found = []
    for kind in KINDS:
        made, folder = corpus(kind), HERE / kind
        there = {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}
        found += [f"{kind}/{name}" for name in sorted(made.keys() | there.keys()) if made.get(name) != there.get(name)]
    return found


def write() -> None:
    """Writes the files that are not there as they are made here, and removes those that nobody makes."""
    for name in differences():
        path = HERE / name
        path.parent.mkdir(exist_ok=True)
        content = corpus(path.parent.name).get(path.name)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit("\n".join(differences()) or None)
    write()
