"""What is only seen in the description; the rest of it is tested through the backend."""

from __future__ import annotations

from llamatelemetry.llama.client import LlamaClient
from llamatelemetry.llama.describe import describe
from llamatelemetry.llama.server import LlamaServer


def test_slots_with_a_cache_each_share_none(server):
    with LlamaClient(server.url) as client:
        assert describe(client, server=server).kv_tokens is None
        assert describe(client, server=None).kv_tokens is None


def test_slots_of_one_cache_share_what_all_of_them_hold(model_path):
    with (
        LlamaServer(model_path, slots=4, context_length=256, threads=1, kv_unified=True) as shared,
        LlamaClient(shared.url) as client,
    ):
        info = describe(client, server=shared)
        assert (info.kv_tokens, info.context_length, info.slots) == (1024, 1024, 4)
        # Another process knows only if it is told.
        assert describe(client, server=None).kv_tokens is None
        assert describe(client, server=None, kv_unified=True).kv_tokens == 1024


def test_a_shared_cache_ends_no_later_than_the_model_was_trained_for_and_says_so(model_path):
    with (
        LlamaServer(model_path, slots=2, context_length=8192, threads=1, kv_unified=True) as shared,
        LlamaClient(shared.url) as client,
    ):
        info = describe(client, server=shared)
    assert (info.kv_tokens, info.context_length) == (16384, 8192)


def test_a_server_makes_embeddings_only_if_it_was_told_to(server):
    with LlamaClient(server.url) as client:
        assert describe(client, server=server).embeddings is False


def test_the_process_of_a_server_started_here_is_known_and_its_gpus_are_this_machines(server):
    with LlamaClient(server.url) as client:
        own, other = describe(client, server=server), describe(client, server=None)
        told = describe(client, server=None, gpus=[0, "GPU-a"])
    assert (own.pid, own.gpus) == (server.pid, None)
    assert (other.pid, other.gpus) == (None, None)
    assert told.gpus == ("0", "GPU-a")
