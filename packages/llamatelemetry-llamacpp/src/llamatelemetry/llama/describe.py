"""What is known of a served model: the server's word, and its file's where this machine has it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llamatelemetry.backends.protocol import ModelInfo
from llamatelemetry.errors import ModelFileError
from llamatelemetry.llama.client import LlamaClient
from llamatelemetry.llama.gguf import GgufFile, read_gguf
from llamatelemetry.llama.model_files import PROVIDER, model_name
from llamatelemetry.llama.model_origin import origin
from llamatelemetry.llama.server import LlamaServer
from llamatelemetry.llama.server_replies import Props
from llamatelemetry.llama.transport import is_loopback


def describe(
    client: LlamaClient,
    *,
    server: LlamaServer | None,
    name: str | None = None,
    slots: int | None = None,
    gpus: Sequence[int | str] | None = None,
    kv_unified: bool | None = None,
    sha256: bool | None = None,
) -> ModelInfo:
    """Asks a server that is ready.

    Args:
        client: Speaks to it.
        server: It, if it was started here.
        name: What to call the model of a server that was not.
        slots: Most slots to use; all when None.
        gpus: GPUs of this machine that it uses, as UUIDs or indices; None for not known.
        kv_unified: Whether the slots of a server that was not started here share one KV cache: it
            does not say.
        sha256: Whether to compute the digest of the model file, if this machine has it. When None, where a
            manifest or the file itself says which run made it.

    Raises:
        BackendError: It does not answer as a llama-server does.
    """
    props = client.props()
    path, gguf = _model_file(client, props, server)
    digest, lineage = (None, None) if path is None or gguf is None else origin(path, gguf, sha256=sha256)
    shared = props.context_length if kv_unified else None
    return ModelInfo(
        model=_name(props, name) if server is None else server.name,
        provider=PROVIDER,
        slots=min(slots or props.total_slots, props.total_slots),
        owned=server is not None,
        server_address=client.host,
        server_port=client.port,
        architecture=None if gguf is None else gguf.architecture,
        quantization=props.quantization if gguf is None else gguf.quantization,
        parameters=_parameters(client) if gguf is None else gguf.parameters,
        context_length=props.context_length,
        kv_tokens=shared if server is None else server.kv_tokens,
        kv_bytes_per_token=None if gguf is None else gguf.kv_bytes_per_token,
        embeddings=client.offers_embeddings(),
        sha256=digest,
        lineage=lineage,
        pid=None if server is None else server.pid,
        gpus=_gpus(client, gpus),
    )


def _gpus(client: LlamaClient, known: Sequence[int | str] | None) -> tuple[str, ...] | None:
    if known is not None:
        return tuple(str(gpu) for gpu in known)
    # Another machine's work is not done by the GPUs of this one.
    return None if is_loopback(client.host) else ()


def _name(props: Props, wanted: str | None) -> str:
    return wanted or model_name(props.model_alias or props.model_path or "unknown")


def _parameters(client: LlamaClient) -> int | None:
    served = client.models().models
    # A router lists many models and does not say which of them is meant.
    return served[0].parameters if len(served) == 1 else None


def _model_file(client: LlamaClient, props: Props, server: LlamaServer | None) -> tuple[Path | None, GgufFile | None]:
    """The model file and its header, if this machine has it."""
    if server is not None:
        return server.model, server.gguf
    if props.model_path is None or not is_loopback(client.host):
        return None, None
    path = Path(props.model_path)
    try:
        return path, read_gguf(path)
    except ModelFileError:
        # The server may see another file system, a container's for example: its word has to do.
        return None, None
