"""Run as a process of its own: gives every file of a kind to every reader of that kind, and tells what came of it.

::

    python tests/hostile/reading.py KIND SCRATCH   # one JSON object a line: a reader, a file, what came of it

A reader gets the file in the place where it looks for one, beside whatever else it needs, which is in order. Memory
is limited to little more than is in use once every reader has read a file with nothing wrong in it. Whoever asks for
a network or another process gets an error and is told of.
"""

from __future__ import annotations

import json
import resource
import shutil
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llamatelemetry.artifacts.files import read_manifest
from llamatelemetry.artifacts.lineage import read_lineage
from llamatelemetry.deployment.stage import DeployStage
from llamatelemetry.deployment.state import DeploymentFolder
from llamatelemetry.errors import LlamatelemetryError
from llamatelemetry.llama.gguf import read_gguf
from llamatelemetry.llama.model_origin import origin
from llamatelemetry.llama.shape import read_shape as gguf_shape
from llamatelemetry.pipeline.outcome import read_record
from llamatelemetry.pipeline.stage import Artifact
from llamatelemetry.quantization import quantize
from llamatelemetry.quantization.conversion.checkpoint import open_checkpoint
from llamatelemetry.quantization.converting import convert
from llamatelemetry.quantization.dynamic.trial_cache import TrialCache
from llamatelemetry.quantization.evaluation.logits_folder import LogitsFolder
from llamatelemetry.quantization.ggml import load_ggml
from llamatelemetry.quantization.gguf_reading import open_gguf, read_layout
from llamatelemetry.quantization.imatrix import read_importance
from llamatelemetry.quantization.small_checkpoints import write_small_checkpoint
from llamatelemetry.quantization.variants import read_variant_table
from llamatelemetry.transformers.shape import read_shape as checkpoint_shape
from llamatelemetry.unsloth.adapter import read_adapter
from llamatelemetry.unsloth.checkpoint import check_mergeable
from llamatelemetry.unsloth.dataset import read_examples
from llamatelemetry.untrusted.json_values import read_json
from llamatelemetry.untrusted.safetensors_header import read_safetensors

HERE: Final = Path(__file__).parent
MORE_MEMORY_BYTES: Final = 48 * 2**20
"""Address space that readers may take beyond what is in use once each has read a file that is fine."""
CPU_S: Final = 60
"""What a process may compute before the kernel ends it."""

_FORBIDDEN: Final = ("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Something that reads files of others.

    Attributes:
        name: What it is called here.
        place: Where it looks for the file, in a folder.
        fine: The file with nothing wrong in it that it reads; empty where what is prepared has one already.
        read: Reads what is in the folder, removes what it made on purpose, and says what it read, in JSON.
        prepare: Puts into the folder what else is needed.
    """

    name: str
    place: str
    fine: str = ""
    read: Callable[[Path], Any]
    prepare: Callable[[Path], object] = lambda _: None


def _gguf(folder: Path) -> Any:
    found = read_gguf(folder / "m.gguf")
    for tensor in found.tensors:
        assert tensor.size_bytes is None or tensor.offset + tensor.size_bytes <= found.size_bytes
    told = (found.architecture, found.name, found.quantization, found.context_length, found.block_count, found.pooling)
    return *told, found.parameters, found.head_count, found.head_count_kv, found.kv_bytes_per_token


def _lineage(folder: Path) -> Any:
    found = read_gguf(folder / "m.gguf")
    _, lineage = origin(folder / "m.gguf", found, sha256=True)
    written = read_lineage(found.metadata)
    return lineage and (lineage.standing, lineage.problem), written and written.run_id


def _placement(folder: Path) -> Any:
    found = gguf_shape(folder / "m.gguf")
    assert found is not None
    assert found.weights_bytes <= (folder / "m.gguf").stat().st_size
    return found.parameters, found.weights_bytes, found.name, found.architecture


def _layout(folder: Path) -> Any:
    with open_gguf(folder / "m.gguf") as file:
        found = read_layout(folder / "m.gguf", file, load_ggml().types_by_number)
    assert sum(tensor.size_bytes for tensor in found.tensors) <= found.size_bytes
    return [(tensor.name, tensor.shape, tensor.type.name) for tensor in found.tensors]


def _quantize(folder: Path) -> Any:
    made = quantize(folder / "m.gguf", folder / "made.gguf", file_type="Q8_0", threads=1)
    made.path.unlink()
    return made.elements, made.size_bytes


def _importance(folder: Path) -> Any:
    found = read_importance(folder / "m.gguf")
    return [(name, values.size) for name, values in found.entries.items()]


def _convert(folder: Path) -> Any:
    made = convert(folder, folder / "made.gguf", threads=1)
    made.path.unlink()
    return made.elements, made.size_bytes


def _checkpoint(folder: Path) -> Any:
    with open_checkpoint(folder) as found:
        return found.size_bytes, len(found.tensors)


def _shape(folder: Path) -> Any:
    found = checkpoint_shape(folder)
    return found and (found.parameters, found.weights_bytes, found.name, found.architecture)


def _adapter(folder: Path) -> Any:
    found = read_adapter(folder)
    return found.rank, found.scale, found.parameters, found.base_model, found.layers, found.ranks


def _tensors(folder: Path) -> Any:
    path = folder / "m.safetensors"
    found = read_safetensors(path)
    assert sum(tensor.size_bytes for tensor in found) <= path.stat().st_size
    return [(tensor.name, tensor.shape, tensor.dtype, tensor.start) for tensor in found]


def _run(folder: Path) -> Any:
    found = read_record(folder, "r1")
    return found.to_data()


def _deployment(folder: Path) -> Any:
    home = DeploymentFolder("d", folder)
    found = home.current()
    assert found is not None
    return found.to_data(), [each.id for each in home.history()]


def _ending(folder: Path) -> Any:
    found = DeploymentFolder("d", folder).ending("d1")
    return found and (found.reason + "", found.wanted is True, found.ended_ns + 0)


def _lapsed(folder: Path) -> Any:
    return DeployStage().lapsed({"deployment": Artifact(path=folder / "d.json", manifest=None)})  # type: ignore[arg-type]


def _manifest(folder: Path) -> Any:
    return read_manifest(folder / "m.json").digest


def _dataset(folder: Path) -> Any:
    return [(each.text, each.completion, each.messages) for each in read_examples(folder / "d.jsonl")]


def _adapter_files(folder: Path) -> None:
    shutil.copyfile(HERE / "json" / "fine-adapter.json", folder / "adapter_config.json")
    shutil.copyfile(HERE / "safetensors" / "fine-adapter.safetensors", folder / "adapter_model.safetensors")


def _folders(folder: Path) -> None:
    for name in ("history", "ended"):
        (folder / "deployments" / "d" / name).mkdir(parents=True)


_CONFIG: Final = "config.json"
_WEIGHTS: Final = "model.safetensors"
READERS: Final[Mapping[str, tuple[Reader, ...]]] = {
    "gguf": tuple(
        Reader(name=name, place="m.gguf", fine=fine, read=read)
        for name, fine, read in (
            ("llama.gguf", "fine-model", _gguf),
            ("llama.model_origin", "fine-model", _lineage),
            ("llama.shape", "fine-model", _placement),
            ("quantization.gguf_reading", "fine-model", _layout),
            ("quantization.quantize", "fine-model", _quantize),
            ("quantization.imatrix", "fine-importance", _importance),
        )
    ),
    "safetensors": (
        Reader(name="untrusted.safetensors_header", place="m.safetensors", fine="fine-adapter", read=_tensors),
        Reader(name="unsloth.adapter", place="adapter_model.safetensors", read=_adapter, prepare=_adapter_files),
        *(
            Reader(name=name, place=_WEIGHTS, read=read, prepare=write_small_checkpoint)
            for name, read in (
                ("quantization.checkpoint", _checkpoint),
                ("quantization.convert", _convert),
                ("transformers.shape", _shape),
            )
        ),
    ),
    "json": (
        Reader(
            name="untrusted.json_values", place="m.json", fine="fine-config", read=lambda f: read_json(f / "m.json")
        ),
        Reader(name="unsloth.adapter", place="adapter_config.json", read=_adapter, prepare=_adapter_files),
        *(
            Reader(name=name, place=place, read=read, prepare=write_small_checkpoint)
            for name, place, read in (
                ("quantization.checkpoint", _CONFIG, _checkpoint),
                ("quantization.convert", _CONFIG, _convert),
                ("quantization.convert.tokenizer", "tokenizer.json", _convert),
                ("quantization.convert.tokenizer_config", "tokenizer_config.json", _convert),
                ("quantization.convert.index", f"{_WEIGHTS}.index.json", _convert),
                ("transformers.shape", _CONFIG, _shape),
                ("unsloth.checkpoint", _CONFIG, check_mergeable),
            )
        ),
        Reader(name="artifacts.manifest", place="m.json", fine="fine-manifest", read=_manifest),
        Reader(name="pipeline.outcome", place="r1.json", fine="fine-run", read=_run),
        *(
            Reader(name=name, place=f"deployments/d/{place}.json", fine=fine, read=read, prepare=_folders)
            for name, place, fine, read in (
                ("deployment.state", "current", "fine-deployment", _deployment),
                ("deployment.state.ending", "ended/d1", "fine-ending", _ending),
            )
        ),
        Reader(name="deployment.stage", place="d.json", fine="fine-deployment", read=_lapsed),
        Reader(
            name="quantization.variants",
            place="v.json",
            fine="fine-variants",
            read=lambda folder: read_variant_table(folder / "v.json").markdown(),
        ),
        Reader(
            name="quantization.trial_cache",
            place="t.json",
            fine="fine-trials",
            read=lambda folder: TrialCache(folder / "t.json").get({}),
        ),
        Reader(
            name="quantization.logits_folder",
            place="l.json",
            fine="fine-config",
            read=lambda folder: LogitsFolder(folder, 0).facts(folder / "l.json"),
        ),
        Reader(name="unsloth.dataset", place="d.jsonl", fine="fine-example", read=_dataset),
    ),
}


class Watch:
    """Sees who asks for a network or another process, and refuses it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        sys.addaudithook(self._saw)

    def _saw(self, event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(_FORBIDDEN):
            self.asked.append(event)
            raise PermissionError(f"{event} is not for readers of files")


def came_of(reader: Reader, folder: Path, content: bytes | None, watch: Watch) -> dict[str, Any]:
    """What came of one reading.

    Args:
        reader: Who reads.
        folder: Where everything else is that it needs.
        content: The file; None to read what is there.
        watch: Sees what it should not do.
    """
    if content is not None:
        (folder / reader.place).write_bytes(content)
    told: dict[str, Any] = {"error": "", "message": "", "known": True, "read": None}
    before, cpu_s = _names(folder), time.process_time()
    watch.asked.clear()
    try:
        told["read"] = _plain(reader.read(folder))
    except LlamatelemetryError as error:
        told |= {"error": type(error).__name__, "message": str(error)}
    except BaseException as error:  # noqa: BLE001  Whatever it is, it is what the test is about.
        told |= {"error": type(error).__name__, "message": traceback.format_exc()[-2000:], "known": False}
    told |= {"cpu_s": time.process_time() - cpu_s, "asked": [*watch.asked], "left": sorted(_names(folder) ^ before)}
    return told


def _plain(value: Any) -> str:
    return repr(value)[:300]


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def guards(watch: Watch) -> dict[str, Any]:
    """Whether what limits the readers would be seen to."""
    found = {"memory": False, "network": False}
    try:
        bytearray(2 * MORE_MEMORY_BYTES)
    except MemoryError:
        found["memory"] = True
    watch.asked.clear()
    try:
        socket.create_connection(("127.0.0.1", 9))
    except PermissionError:
        found["network"] = bool(watch.asked)
    return found


def say(told: Mapping[str, Any]) -> None:
    """One line for whoever started this."""
    sys.stdout.write(json.dumps(told) + "\n")


def main(kind: str, scratch: Path) -> None:
    """Reads everything of a kind."""
    # Of the machine's own size, one thread's stack may be more than all readers may take.
    threading.stack_size(2**21)
    folders, watch = {}, Watch()
    for reader in READERS[kind]:
        folders[reader] = folder = scratch / reader.name
        folder.mkdir()
        reader.prepare(folder)
        content = (HERE / kind / f"{reader.fine}.{kind}").read_bytes() if reader.fine else None
        say({"reader": reader.name, "file": "", **came_of(reader, folder, content, watch)})
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MORE_MEMORY_BYTES, resource.RLIM_INFINITY))
    for path in sorted((HERE / kind).iterdir()):
        content = path.read_bytes()
        for reader, folder in folders.items():
            say({"reader": reader.name, "file": path.stem, **came_of(reader, folder, content, watch)})
    say(guards(watch))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
