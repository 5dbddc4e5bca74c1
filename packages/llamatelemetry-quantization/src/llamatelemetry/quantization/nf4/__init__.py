"""Four-bit weights as bitsandbytes has them: NF4 and FP4, of tensors, of models, and measured on checkpoints.

Importing this package imports neither torch nor bitsandbytes. What needs them says so when it is called, with
the command that installs both.
"""

from llamatelemetry.quantization.nf4.checkpoints import CheckpointLoss, CheckpointProgress, measure_checkpoint
from llamatelemetry.quantization.nf4.formats import DEFAULT_SKIP, FourBit
from llamatelemetry.quantization.nf4.layers import FourBitModel, quantize_linears, restore_linears
from llamatelemetry.quantization.nf4.losses import Loss, TensorLoss, measure_loss, sum_of
from llamatelemetry.quantization.nf4.tensors import FourBitTensor, dequantize_tensor, quantize_tensor

__all__ = [
    "DEFAULT_SKIP",
    "CheckpointLoss",
    "CheckpointProgress",
    "FourBit",
    "FourBitModel",
    "FourBitTensor",
    "Loss",
    "TensorLoss",
    "dequantize_tensor",
    "measure_checkpoint",
    "measure_loss",
    "quantize_linears",
    "quantize_tensor",
    "restore_linears",
    "sum_of",
]
