"""Linear layers of a model in four bits, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llamatelemetry.errors import InvalidValueError
from llamatelemetry.quantization.nf4.formats import DEFAULT_SKIP, FourBit, skip_patterns
from llamatelemetry.quantization.nf4.losses import Loss, TensorLoss, measure_loss, sum_of
from llamatelemetry.quantization.nf4.runtime import load_bitsandbytes, load_torch, usable_device
from llamatelemetry.quantization.nf4.tensors import stored_bytes

__all__ = ["FourBitModel", "quantize_linears", "restore_linears"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FourBitModel:
    """What became of a model's linear layers.

    Attributes:
        four_bit: How their weights are stored now.
        layers: What each weight lost, by name of its layer, in the order in which the model has them.
        skipped: Linear layers that stayed as they are, to the reason.
        size_before_bytes: Bytes of all parameters and buffers, before.
        size_bytes: Bytes of them now, scales included.
    """

    four_bit: FourBit
    layers: tuple[TensorLoss, ...]
    skipped: Mapping[str, str]
    size_before_bytes: int
    size_bytes: int

    @property
    def loss(self) -> Loss:
        """What all of the weights lost together."""
        return sum_of(each.loss for each in self.layers)


def quantize_linears(
    model: Any,
    four_bit: FourBit | None = None,
    *,
    skip: Sequence[str] = DEFAULT_SKIP,
    compute_dtype: Any = None,
    device: Any = None,
) -> FourBitModel:
    """Replaces the linear layers of a model by such that keep their weights in four bits, one after another.

    Layers of other classes, also of classes made from ``torch.nn.Linear``, stay as they are, and so does a weight
    that several modules share, or whose rows are no whole blocks. Hooks of a layer that is replaced are gone. Weights
    are frozen from then on.

    Args:
        model: A ``torch.nn.Module``. It is changed.
        four_bit: How; NF4 in blocks of 64 with double quantization where None.
        skip: Regular expressions; a layer in whose name one is found stays as it is.
        compute_dtype: The ``torch.dtype`` that layers compute in; that of what goes in where None.
        device: Where to bring each layer; where it is where None. The rest of the model stays where it is.

    Raises:
        InvalidValueError: An argument cannot be used, or a weight has numbers that are not finite. Nothing was changed.
        MissingDependencyError: torch or bitsandbytes is not installed; carries the command that installs both.
    """
    torch, bitsandbytes = load_torch(), load_bitsandbytes()
    chosen, patterns = four_bit or FourBit(), skip_patterns(skip)
    place = None if device is None else usable_device(device)
    before = _size_bytes(model)
    uses = Counter(id(each) for module in model.modules() for each in module.parameters(recurse=False))
    taken: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, torch.nn.Linear) or isinstance(layer, bitsandbytes.nn.Linear4bit):
            continue
        reason = _reason(torch, layer, chosen, shared=uses[id(layer.weight)] > 1)
        found = next((each.pattern for each in patterns if each.search(name)), None)
        if found is not None:
            skipped[name] = f"skip has {found!r}"
        elif not name:
            skipped[name] = "it is the model itself, which has no place to replace it in"
        elif reason:
            skipped[name] = reason
        elif not torch.isfinite(layer.weight).all():
            raise InvalidValueError(f"{name}.weight", "not finite", "look for an overflow, or add the layer to skip")
        else:
            taken[name] = layer
    layers = []
    for name, layer in taken.items():
        new = _four_bit_layer(bitsandbytes, layer, chosen, compute_dtype, place)
        loss = measure_loss(
            layer.weight.to(new.weight.device), _numbers(bitsandbytes, new), size_bytes=_weight_bytes(new.weight)
        )
        layers.append(TensorLoss(name=name, shape=tuple(layer.weight.shape), loss=loss))
        _replace(model, layer, new)
    return FourBitModel(
        four_bit=chosen,
        layers=tuple(layers),
        skipped=skipped,
        size_before_bytes=before,
        size_bytes=_size_bytes(model),
    )


def restore_linears(model: Any, *, dtype: Any = None) -> tuple[str, ...]:
    """Replaces the four-bit layers of a model by plain ones with the numbers that the four bits stand for.

    Args:
        model: A ``torch.nn.Module``. It is changed; what the four bits lost does not come back.
        dtype: The ``torch.dtype`` of the weights; the one that they had where None.

    Returns:
        Names of the layers.

    Raises:
        MissingDependencyError: torch or bitsandbytes is not installed; carries the command that installs both.
    """
    torch, bitsandbytes = load_torch(), load_bitsandbytes()
    found = {
        name: layer for name, layer in model.named_modules() if name and isinstance(layer, bitsandbytes.nn.Linear4bit)
    }
    for layer in found.values():
        numbers = _numbers(bitsandbytes, layer)
        weight = numbers if dtype is None else numbers.to(dtype)
        plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        plain.weight = torch.nn.Parameter(weight, requires_grad=False)
        plain.bias = layer.bias
        plain.train(layer.training)
        _replace(model, layer, plain)
    return tuple(found)


def _reason(torch: Any, layer: Any, four_bit: FourBit, *, shared: bool) -> str:
    """Why a layer cannot be replaced; empty where it can."""
    if type(layer) is not torch.nn.Linear:
        return f"it is a {type(layer).__name__}, which does more than a linear layer"
    if shared:
        return "another module has the same weight"
    if layer.weight.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"its weight is {layer.weight.dtype}"
    if layer.weight.device.type == "meta":
        return "its weight was not loaded"
    # bitsandbytes 0.50 takes them for other blocks than it stored on processors with AVX-512, and is slow on GPUs.
    if layer.in_features % four_bit.block_size:
        return f"its rows of {layer.in_features} numbers are no whole blocks of {four_bit.block_size}"
    return ""


def _four_bit_layer(bitsandbytes: Any, layer: Any, four_bit: FourBit, compute_dtype: Any, device: Any) -> Any:
    new = bitsandbytes.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        compute_dtype=compute_dtype,
        compress_statistics=four_bit.double_quantization,
        quant_type=four_bit.name,
        device="meta",
    )
    weight = bitsandbytes.nn.Params4bit(
        layer.weight.detach(),
        requires_grad=False,
        blocksize=four_bit.block_size,
        compress_statistics=four_bit.double_quantization,
        quant_type=four_bit.name,
        module=new,
    )
    # Where a processor has AVX512-BF16, the first answer would round the scales to bfloat16 for good, undo their
    # double quantization, and raise for outputs that are no multiple of 32.
    new.support_avx512bf16_for_cpu = False
    place = layer.weight.device if device is None else device
    new.weight = weight.to(place)
    if layer.bias is not None:
        new.bias = type(layer.bias)(layer.bias.detach().to(place), requires_grad=layer.bias.requires_grad)
    new.train(layer.training)
    return new


def _numbers(bitsandbytes: Any, layer: Any) -> Any:
    """The weight that a four-bit layer computes with."""
    # A layer that bitsandbytes or transformers made may lie as its processor likes it; saving takes that back.
    layer.state_dict()
    numbers = bitsandbytes.functional.dequantize_4bit(layer.weight.detach(), layer.weight.quant_state)
    return numbers.reshape(layer.out_features, layer.in_features)


def _replace(model: Any, old: Any, new: Any) -> None:
    """Puts a layer in the place of another, wherever the model has it."""
    places = [(parent, name) for parent in model.modules() for name, child in parent.named_children() if child is old]
    for parent, name in places:
        setattr(parent, name, new)


def _size_bytes(model: Any) -> int:
    return sum(_weight_bytes(each) for each in _stored(model))


def _stored(model: Any) -> Iterator[Any]:
    yield from model.parameters()
    yield from model.buffers()


def _weight_bytes(weight: Any) -> int:
    state = getattr(weight, "quant_state", None)
    return int(weight.numel() * weight.element_size()) if state is None else stored_bytes(weight, state)
