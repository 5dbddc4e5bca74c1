"""``llamatelemetry plan``: what of a model goes where, with the arithmetic, before anything is loaded."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import click
from rich.text import Text

from llamatelemetry.cli.output import console, examples, json_option, plugin_log_off, print_json
from llamatelemetry.distributed.free_memory import free_memory
from llamatelemetry.distributed.placement import GPURoom, Placement, Wish
from llamatelemetry.distributed.placement_json import placement_data, refusal_data
from llamatelemetry.distributed.placement_text import placement_lines, refusal_lines
from llamatelemetry.distributed.planning import Refusal
from llamatelemetry.distributed.planning import plan as find_plan
from llamatelemetry.distributed.proximity import islands
from llamatelemetry.distributed.serving import CACHE_TYPES, DEFAULT_RESERVE_BYTES, Serving
from llamatelemetry.distributed.shape import ModelShape
from llamatelemetry.distributed.sizes import format_size, parse_size
from llamatelemetry.distributed.topology import read_topology
from llamatelemetry.errors import InvalidValueError
from llamatelemetry.gpu.nvml import Nvml
from llamatelemetry.plugins import load_plugins

DOES_NOT_FIT: Final = 1
DEFAULT_CONTEXT: Final = 4096
_COLOURS: Final = {
    r"(?m)^(?:GPU \d+|CPU)": "bold",
    r"(?m)^  needs .*$": "bold",
    r"leaves .*$": "green",
    r"(?m)\S+ \S+ short$": "red",
    r"(?m)^It does not fit.*$": "bold red",
    r"(?m)^Note: .*$": "yellow",
    r"\(--[^)]*\)$": "cyan",
}


@click.command(
    epilog=examples(
        "llamatelemetry plan model.gguf --ctx 8192 --slots 4",
        "llamatelemetry plan model.gguf --ctx 8192 --leave 1",
        "llamatelemetry plan model.gguf --vram 15GiB,15GiB --kv q8_0 --json",
        "llamatelemetry plan model.gguf --vram 8GiB --gpu-layers auto",
    )
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--ctx", type=int, help="Tokens that one slot holds.  [default: 4096, or what the model was trained for]")
@click.option("--slots", type=int, default=4, show_default=True, help="Requests that run at once.")
@click.option("--vram", help="Free memory of each GPU, such as 15GiB,15GiB; asks the driver when not given.")
@click.option("--leave", type=int, multiple=True, help="Number of a GPU to leave alone, for other work; repeatable.")
@click.option("--spread", is_flag=True, help="Use every GPU, also where fewer would do.")
@click.option(
    "--gpu-layers", default="all", show_default=True, help="Layers on GPUs: all, auto for what fits, or a number."
)
@click.option("--kv", default="f16", show_default=True, help="How the KV cache keeps numbers: TYPE, or KEYS,VALUES.")
@click.option("--kv-unified", is_flag=True, help="Let the slots share one cache.")
@click.option("--batch", type=int, default=2048, show_default=True, help="Tokens of a prompt that are taken at once.")
@click.option("--ubatch", type=int, default=512, show_default=True, help="Tokens that are computed at once.")
@click.option("--logit-rows", type=int, help="Rows of logits that are kept.  [default: one for each slot]")
@click.option(
    "--flash-attention/--no-flash-attention", default=True, show_default=True, help="Attention without its scores."
)
@click.option("--reserve", default=format_size(DEFAULT_RESERVE_BYTES), show_default=True, help="Left free on each GPU.")
@json_option
def plan(
    *,
    model: Path,
    ctx: int | None,
    slots: int,
    vram: str | None,
    leave: tuple[int, ...],
    spread: bool,
    gpu_layers: str,
    kv: str,
    kv_unified: bool,
    batch: int,
    ubatch: int,
    logit_rows: int | None,
    flash_attention: bool,
    reserve: str,
    as_json: bool,
) -> int:
    """Say what of a model goes where, before anything is loaded.

    Reads the sizes of MODEL, a GGUF file or whatever format an installed plugin knows, and plans its
    layers, its KV cache and what is computed with onto the GPUs, with the formula of every figure. Ends with
    the llama-server command that carries the plan out. Nothing is loaded, and with --vram no GPU is needed.

    It uses the fewest GPUs that do, near each other where there is a choice. On two GPUs, --leave 1 has
    GPU 0 serve and keeps GPU 1 for your own work. What does not fit is refused with what is missing and
    with changes that would each be enough: fewer slots, shorter contexts, a smaller KV cache, fewer
    layers on GPUs. Exit code 1 then; 2 where an option is no good for this model or these GPUs.

    The KV cache is one context for each slot. Weights and cache are what llama.cpp allocates; figures
    with a ~ are upper bounds. --reserve is for what no buffer of llama.cpp holds: the CUDA context,
    cuBLAS and temporary copies. For embeddings, and llama.cpp from before June 2026, give --logit-rows
    the same number as --ubatch.
    """
    with plugin_log_off():
        shape = load_plugins().read_model_shape(model)
    with _wrong_usage():
        keys, _, values = kv.partition(",")
        serving = Serving(
            context_length=_context(shape) if ctx is None else ctx,
            slots=slots,
            unified=kv_unified,
            key_type=_cache_type(keys),
            value_type=_cache_type(values or keys),
            batch=batch,
            ubatch=ubatch,
            flash_attention=flash_attention,
            logit_rows=logit_rows,
            reserve_bytes=parse_size("reserve", reserve),
        )
        gpus, near = _ask_driver() if vram is None else (_given(vram), ())
        wish = Wish(
            shape=shape,
            serving=serving,
            gpus=gpus,
            gpu_layers=_layers(gpu_layers),
            leave=frozenset(leave),
            spread=spread,
            islands=near,
        )
        found = find_plan(wish)
    if as_json:
        print_json(_as_json(found))
    else:
        _show(found)
    return DOES_NOT_FIT if isinstance(found, Refusal) else 0


@contextmanager
def _wrong_usage() -> Iterator[None]:
    """Makes wrong usage of a value that is no good: of a failure, the exit code would say that it does not fit."""
    try:
        yield
    except InvalidValueError as error:
        raise click.UsageError(str(error)) from error


def _context(shape: ModelShape) -> int:
    return min(shape.context_length or DEFAULT_CONTEXT, DEFAULT_CONTEXT)


def _cache_type(name: str) -> str:
    if name not in CACHE_TYPES:
        raise InvalidValueError("kv", name, f"give one of {', '.join(CACHE_TYPES)}, or two with a comma between")
    return name


def _layers(text: str) -> int | Literal["all", "auto"]:
    match text:
        case "all" | "auto":
            return text
        case _ if text.isdecimal():
            return int(text)
        case _:
            raise InvalidValueError("gpu_layers", text, "give all, auto or a number")


def _given(vram: str) -> tuple[GPURoom, ...]:
    rooms = enumerate(parse_size("vram", text) for text in vram.split(","))
    return tuple(GPURoom(index=index, free_bytes=free_bytes) for index, free_bytes in rooms)


def _ask_driver() -> tuple[tuple[GPURoom, ...], tuple[tuple[str, ...], ...]]:
    """What is free on each GPU, and which GPUs are near each other."""
    nvml = Nvml()
    try:
        rooms = free_memory(nvml)
        # Of two there is no choice, and asking takes hundreds of calls.
        return rooms, islands(read_topology(nvml)) if len(rooms) > 2 else ()
    finally:
        nvml.close()


def _as_json(found: Placement | Refusal) -> dict[str, object]:
    if isinstance(found, Placement):
        return placement_data(found)
    message = f"it does not fit: {format_size(found.short_bytes)} are missing"
    return {"error": {"type": "DoesNotFit", "message": message}, **refusal_data(found)}


def _show(found: Placement | Refusal) -> None:
    placement = found if isinstance(found, Placement) else found.attempt
    lines = placement_lines(placement)
    if isinstance(found, Refusal):
        lines += ["", *refusal_lines(found)]
    elif placement.command:
        variables = [f"{name}={shlex.quote(value)}" for name, value in placement.environment.items()]
        lines += ["", "Run:", f"  {' '.join([*variables, shlex.join(placement.command)])}"]
    else:
        lines += ["", f"llama.cpp runs GGUF files: convert this {placement.shape.format} model first."]
    text = Text("\n".join(lines))
    for pattern, colour in _COLOURS.items():
        text.highlight_regex(pattern, colour)
    # Not folded here: the command is there to be copied.
    console().print(text, soft_wrap=True)
