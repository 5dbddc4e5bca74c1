"""The command line of ``llama-server`` that carries out a placement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llamatelemetry.distributed.serving import Serving


def server_command(path: Path, serving: Serving, gpu_layers: int, tensor_split: Sequence[int]) -> tuple[str, ...]:
    """The command, its program first.

    The split is given as whole layers: llama.cpp turns the numbers into shares of all layers on GPUs and
    gives a layer to the first GPU whose sum of shares is above the layer's own place among them, which
    comes out at exactly these layers. It takes no measures of its own to fit the memory where
    ``--n-gpu-layers`` is given.

    Args:
        path: The model file.
        serving: How it is served.
        gpu_layers: Layers on GPUs, the output counted as one more.
        tensor_split: How many of them each GPU has.
    """
    command = [
        "llama-server",
        *("--model", str(path)),
        *("--ctx-size", str(serving.context_total)),
        *("--parallel", str(serving.slots)),
        "--kv-unified" if serving.unified else "--no-kv-unified",
        *("--n-gpu-layers", str(gpu_layers)),
    ]
    if len(tensor_split) > 1:
        command += ["--split-mode", "layer", "--tensor-split", ",".join(map(str, tensor_split))]
    elif tensor_split:
        command += ["--split-mode", "none", "--main-gpu", "0"]
    command += [
        *("--flash-attn", "on" if serving.flash_attention else "off"),
        *("--cache-type-k", serving.key_type),
        *("--cache-type-v", serving.value_type),
        *("--batch-size", str(serving.batch)),
        *("--ubatch-size", str(serving.ubatch)),
    ]
    return tuple(command)


def visible_devices(gpus: Sequence[tuple[int, str | None]]) -> dict[str, str]:
    """Variables by which a CUDA program sees these GPUs, in this order, and no others.

    A GPU that it may see and has no layer on would still get a CUDA context of some hundred megabytes,
    and make it keep its inputs four times.

    Args:
        gpus: The number of each, as ``nvidia-smi`` counts, and its UUID where that is known.
    """
    if all(uuid for _, uuid in gpus):
        return {"CUDA_VISIBLE_DEVICES": ",".join(str(uuid) for _, uuid in gpus)}
    # CUDA counts from the fastest GPU on unless it is told to count as nvidia-smi does.
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(str(index) for index, _ in gpus)}
