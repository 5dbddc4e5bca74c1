"""``llamatelemetry topo``: how the GPUs are linked to each other, to CPUs and to memory."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

import click
from rich.text import Text

from llamatelemetry.cli.output import console, examples, json_option, print_json
from llamatelemetry.distributed.cpu_list import format_cpu_list
from llamatelemetry.distributed.proximity import best_pairs, islands
from llamatelemetry.distributed.topology import Link, Topology, TopologyGPU, read_topology
from llamatelemetry.distributed.topology_text import render_p2p, render_topology
from llamatelemetry.errors import GPUUnavailableError
from llamatelemetry.gpu.device import DriverState, DriverStatus
from llamatelemetry.gpu.nvml import Nvml

_COLOURS: Final = {
    r"\b(?:NV\d+|OK)(?= |$)": "green",
    r"\b(?:PIX|PXB)(?= |$)": "cyan",
    r"\b(?:PHB|NODE)(?= |$)": "yellow",
    r"\b(?:SYS|CNS|GNS|TNS|DR|NS)(?= |$)": "red",
    r"\bGPU\d+\b": "bold",
    r"N/A": "dim",
}


@click.command(
    epilog=examples(
        "llamatelemetry topo",
        "llamatelemetry topo --p2p",
        "llamatelemetry topo --json",
        "CUDA_VISIBLE_DEVICES=0,1 llamatelemetry topo",
    )
)
@click.option("--p2p", is_flag=True, help="Show which GPUs reach each other's memory, and what keeps the others.")
@json_option
def topo(*, p2p: bool, as_json: bool) -> None:
    """Show how the GPUs are linked to each other, to CPUs and to memory.

    The matrix is read like that of `nvidia-smi topo -m`: what is between the GPU of the row and that
    of the column. A model that is split over two GPUs runs best on two that are near: NV# is NVLink
    and the nearest, then come PIX, PXB, PHB, NODE and SYS. Run what feeds a GPU on the CPUs of its
    row, as `taskset -c CPUS` does.

    Only the GPUs that CUDA_VISIBLE_DEVICES leaves are shown. What the driver does not tell is N/A,
    with the reason below the matrix. Exit code 1 where no GPU can be read.
    """
    nvml = Nvml()
    try:
        status = nvml.open()
        if status.state is not DriverState.READY:
            raise GPUUnavailableError(status.state.value, status.message, status.fix)
        topology = read_topology(nvml)
    finally:
        nvml.close()
    if as_json:
        print_json(_as_json(topology, status))
        return
    text = Text(render_p2p(topology) if p2p else render_topology(topology))
    for pattern, colour in _COLOURS.items():
        text.highlight_regex(pattern, colour)
    # Not folded here: a terminal that is too narrow may do so, a file or a pager must not have it done.
    console().print(text, soft_wrap=True)


def _as_json(topology: Topology, status: DriverStatus) -> dict[str, Any]:
    return {
        "driver": {"version": status.driver_version, "cuda": status.cuda_version, "hidden": status.hidden},
        "gpus": [_gpu(gpu) for gpu in topology.gpus],
        "links": [_link(link) for link in topology.links],
        "numa_nodes": [{**asdict(node), "cpus": format_cpu_list(node.cpus)} for node in topology.numa_nodes],
        "switches": list(topology.switches),
        "islands": [list(group) for group in islands(topology)],
        "pairs": [[pair.a, pair.b] for pair in best_pairs(topology)],
    }


def _gpu(gpu: TopologyGPU) -> dict[str, Any]:
    return {**asdict(gpu), "cpus": None if gpu.cpus is None else format_cpu_list(gpu.cpus)}


def _link(link: Link) -> dict[str, Any]:
    told = asdict(link)
    return {"a": told.pop("a"), "b": told.pop("b"), "kind": link.kind.value, "label": link.label, **told}
