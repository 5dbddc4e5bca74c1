"""What quantize() leaves behind, says, and refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import gguf
import numpy as np
import pytest

from llamatelemetry.errors import InvalidValueError, ModelFileError
from llamatelemetry.quantization import quantize, read_importance


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_threads_do_not_change_the_file(tmp_path, small):
    for threads in (1, 2, 7):
        quantize(small, tmp_path / f"{threads}.gguf", file_type="Q4_0", threads=threads)

    assert len({(tmp_path / f"{threads}.gguf").read_bytes() for threads in (1, 2, 7)}) == 1


def test_it_says_what_it_made(tmp_path, tiny):
    made = quantize(tiny, str(tmp_path / "out.gguf"), file_type="q4_k")

    assert (made.path, made.file_type) == (tmp_path / "out.gguf", "Q4_K_M")
    assert made.size_bytes == made.path.stat().st_size < made.source_bytes == tiny.stat().st_size
    assert made.tensor_types == {"Q4_K": 5, "F32": 3, "Q6_K": 3}
    assert 4 < made.bits_per_weight < 9
    assert made.replaced == {}


def test_what_did_not_fit_is_named(tmp_path, narrow):
    source = narrow(tmp_path / "in.gguf", "llama", {"attn_q": (2, 288)}, blocks=1)

    made = quantize(source, tmp_path / "out.gguf", file_type="Q4_K_M")

    assert made.replaced == {"blk.0.attn_q.weight": ("Q4_K", "Q5_0")}


def test_progress_ends_with_everything_done_and_never_goes_back(tmp_path, small):
    seen = []
    quantize(small, tmp_path / "out.gguf", file_type="Q8_0", threads=2, on_progress=seen.append)

    done = [progress.done_bytes for progress in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1].total_bytes == sum(tensor.n_bytes for tensor in gguf.GGUFReader(small).tensors)


def test_a_callback_that_raises_ends_the_work_and_leaves_nothing(tmp_path, small):
    before = threading.active_count()

    def enough(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(small, tmp_path / "out.gguf", file_type="Q4_K_M", threads=2, on_progress=enough)

    assert left(tmp_path) == []
    assert threading.active_count() == before


def test_a_file_of_that_name_is_replaced_only_when_the_new_one_is_whole(tmp_path, tiny):
    target = tmp_path / "out.gguf"
    target.write_bytes(b"older")
    with pytest.raises(ZeroDivisionError):
        quantize(tiny, target, file_type="Q8_0", on_progress=lambda _: 1 / 0)
    assert target.read_bytes() == b"older"

    quantize(tiny, target, file_type="Q8_0")

    assert target.read_bytes()[:4] == b"GGUF"
    assert left(tmp_path) == ["out.gguf"]


@pytest.mark.parametrize("name", ["missing/out.gguf", "tiny.gguf/out.gguf", "x" * 300, "nul\0.gguf", ""])
def test_a_target_that_cannot_be_written_is_a_typed_error(tmp_path, tiny, name):
    (tmp_path / "tiny.gguf").write_bytes(b"a file")
    with pytest.raises(ModelFileError, match="cannot be written"):
        # Said before the work, not after it.
        quantize(tiny, tmp_path / name, file_type="Q8_0", on_progress=lambda _: pytest.fail("it worked first"))
    assert left(tmp_path) == ["tiny.gguf"]


def test_the_source_is_never_the_target(tmp_path, tiny):
    (tmp_path / "link.gguf").symlink_to(tiny)
    before = tiny.read_bytes()
    with pytest.raises(InvalidValueError, match="another file"):
        quantize(tiny, tmp_path / "link.gguf", file_type="Q8_0")
    assert tiny.read_bytes() == before


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from llamatelemetry.errors import ModelFileError
from llamatelemetry.quantization import quantize
try:
    quantize(sys.argv[1], sys.argv[2], file_type="Q8_0")
except ModelFileError as error:
    print(error)
"""


def test_no_room_on_the_disk_leaves_nothing_and_says_how_much_it_takes(tmp_path, tiny):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tiny), str(tmp_path / "out.gguf")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert "cannot be written: File too large. It takes " in done.stdout
    assert left(tmp_path) == []


INTERRUPTED = """
import os, signal, sys
from llamatelemetry.quantization import quantize
os.kill_once = True
def progress(_):
    if os.kill_once:
        os.kill_once = False
        os.kill(os.getpid(), signal.SIGINT)
quantize(sys.argv[1], sys.argv[2], file_type="Q4_K_M", on_progress=progress)
"""


def test_ctrl_c_leaves_nothing(tmp_path, small):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(small), str(tmp_path / "out.gguf")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode in {-signal.SIGINT, 130, 1}
    assert "KeyboardInterrupt" in done.stderr
    assert left(tmp_path) == []


def test_numbers_that_are_not_finite_are_named(tmp_path, narrow):
    source = narrow(tmp_path / "in.gguf", "llama", {"attn_q": (2, 256)}, blocks=1)
    tensor = next(tensor for tensor in gguf.GGUFReader(source).tensors if tensor.name == "blk.0.attn_q.weight")
    with source.open("r+b") as file:
        file.seek(int(tensor.data_offset) + 4)
        file.write(np.float32("nan").tobytes())

    with pytest.raises(ModelFileError, match=r"'blk\.0\.attn_q\.weight' that are not finite"):
        quantize(source, tmp_path / "out.gguf", file_type="Q8_0")
    assert left(tmp_path) == ["in.gguf"]


def test_a_source_that_shrinks_meanwhile_is_a_typed_error(tmp_path, small):
    source = tmp_path / "in.gguf"
    source.write_bytes(small.read_bytes())

    with pytest.raises(ModelFileError, match="while it was read"):
        quantize(source, tmp_path / "out.gguf", file_type="Q8_0", on_progress=lambda _: os.truncate(source, 20_000))
    assert left(tmp_path) == ["in.gguf"]


def test_a_source_that_was_written_to_meanwhile_gives_no_file(tmp_path, tiny):
    source = tmp_path / "in.gguf"
    source.write_bytes(tiny.read_bytes())

    with pytest.raises(ModelFileError, match="changed while it was read"):
        quantize(source, tmp_path / "out.gguf", file_type="Q8_0", on_progress=lambda _: os.utime(source, (1, 1)))
    assert left(tmp_path) == ["in.gguf"]


def test_what_was_quantized_before_is_refused_unless_allowed(tmp_path, tiny):
    quantize(tiny, tmp_path / "q8.gguf", file_type="Q8_0")
    with pytest.raises(InvalidValueError, match="allow_requantize"):
        quantize(tmp_path / "q8.gguf", tmp_path / "q4.gguf", file_type="Q4_0")

    quantize(tmp_path / "q8.gguf", tmp_path / "q4.gguf", file_type="Q4_0", allow_requantize=True)

    assert left(tmp_path) == ["q4.gguf", "q8.gguf"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"file_type": "Q4_X"}, "file_type='Q4_X' is not valid: give one of F32"),
        ({"file_type": "Q8_0", "threads": 0}, "threads=0 is not valid: give 1 to 256"),
        ({"file_type": "IQ2_XS"}, "without an importance matrix"),
        ({"file_type": "Q8_0", "metadata": {"general.architecture": "x"}}, "choose another key"),
        ({"file_type": "Q8_0", "metadata": {"x": 2**32}}, "0 to 4294967295"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_before_anything_is_written(tmp_path, tiny, arguments, message):
    with pytest.raises(InvalidValueError, match=message):
        quantize(tiny, tmp_path / "out.gguf", **arguments)
    assert left(tmp_path) == []


def test_keys_of_the_caller_are_in_the_file(tmp_path, tiny):
    quantize(tiny, tmp_path / "out.gguf", file_type="Q8_0", metadata={"run.id": "r-1", "run.number": 7})

    fields = gguf.GGUFReader(tmp_path / "out.gguf").fields
    assert (fields["run.id"].contents(), fields["run.number"].contents()) == ("r-1", 7)


def test_an_importance_matrix_changes_what_it_is_of(tmp_path, tiny, tiny_importance):
    quantize(tiny, tmp_path / "plain.gguf", file_type="Q4_K_M")
    quantize(tiny, tmp_path / "measured.gguf", file_type="Q4_K_M", imatrix=read_importance(tiny_importance))

    plain, measured = (
        {tensor.name: bytes(tensor.data) for tensor in gguf.GGUFReader(tmp_path / f"{name}.gguf").tensors}
        for name in ("plain", "measured")
    )
    differing = {name for name in plain if plain[name] != measured[name]}
    assert "blk.0.ffn_down.weight" in differing
    assert not {"token_embd.weight", "blk.0.attn_norm.weight"} & differing


def test_the_importance_matrix_of_another_model_is_refused(tmp_path, tiny, tiny_importance):
    importance = read_importance(tiny_importance)
    entries = {"blk.0.attn_q.weight": np.ones(128, np.float32)}
    with pytest.raises(ModelFileError, match=r"has 128 numbers for 'blk\.0\.attn_q\.weight', and 256 are needed"):
        quantize(
            tiny,
            tmp_path / "out.gguf",
            file_type="Q4_0",
            imatrix=replace(importance, entries=entries),
        )
