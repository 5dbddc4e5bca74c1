"""A placement and a refusal as plain data, for JSON. Amounts are in bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from llamatelemetry.distributed.memory_terms import Term, total
from llamatelemetry.distributed.placement import GPUShare, Placement
from llamatelemetry.distributed.planning import Refusal
from llamatelemetry.distributed.shape import ModelShape


def placement_data(placement: Placement) -> dict[str, Any]:
    """Everything a placement says."""
    serving = placement.serving
    return {
        "fits": not placement.short_bytes,
        "model": _model(placement.shape),
        "serving": {**asdict(serving), "context_total": serving.context_total, "cells": serving.cells},
        "gpus": [_share(share) for share in placement.shares],
        "left_free": [asdict(gpu) for gpu in placement.free],
        "cpu": {"terms": _terms(placement.cpu), "needs_bytes": total(placement.cpu)},
        "gpu_layers": placement.gpu_layers,
        "tensor_split": list(placement.tensor_split),
        "environment": dict(placement.environment),
        "command": list(placement.command),
    }


def refusal_data(refusal: Refusal) -> dict[str, Any]:
    """Everything a refusal says; the nearest there is to fitting is in it as a placement."""
    return {
        **placement_data(refusal.attempt),
        "short_bytes": refusal.short_bytes,
        "ways_out": [{**asdict(way), "arguments": list(way.arguments)} for way in refusal.ways_out],
    }


def _model(shape: ModelShape) -> dict[str, Any]:
    return {
        "name": shape.name,
        "path": str(shape.path),
        "format": shape.format,
        "architecture": shape.architecture,
        "quantization": shape.quantization,
        "parameters": shape.parameters,
        "layers": len(shape.layers),
        "weights_bytes": shape.weights_bytes,
        "weights_estimated": shape.weights_estimated,
        "context_length": shape.context_length,
        "assumptions": list(shape.assumptions),
    }


def _share(share: GPUShare) -> dict[str, Any]:
    return {
        **asdict(share.gpu),
        "first_layer": share.part.first,
        "layers": share.part.stop - share.part.first,
        "output": share.part.output,
        "terms": _terms(share.terms),
        "needs_bytes": share.needs_bytes,
        "headroom_bytes": share.headroom_bytes,
    }


def _terms(terms: Iterable[Term]) -> list[dict[str, Any]]:
    return [asdict(term) for term in terms]
