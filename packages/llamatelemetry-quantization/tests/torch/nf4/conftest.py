"""Devices that are here, and small models."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request) -> str:
    """Every kind of device that this machine has."""
    return request.param


@pytest.fixture
def small_model(device) -> torch.nn.Module:
    """Two linear layers, a norm between them, a tied head, and a layer that is more than linear."""

    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed_tokens = torch.nn.Embedding(50, 64)
            self.up = torch.nn.Linear(64, 192)
            self.norm = torch.nn.LayerNorm(192)
            self.down = torch.nn.Linear(192, 64, bias=False)
            self.attention = torch.nn.MultiheadAttention(64, 4, batch_first=True)
            self.head = torch.nn.Linear(64, 50, bias=False)
            self.head.weight = self.embed_tokens.weight

        def forward(self, tokens):
            hidden = self.embed_tokens(tokens)
            hidden = self.down(self.norm(self.up(hidden)))
            hidden = self.attention(hidden, hidden, hidden, need_weights=False)[0]
            return self.head(hidden)

    torch.manual_seed(3)
    return Small().to(device).eval()
