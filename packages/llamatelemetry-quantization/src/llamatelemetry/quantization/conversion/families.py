"""The families of models that are converted: what llama.cpp calls them and their tensors.

A tensor that a family does not list is an error, and so is one that it lists and that is not there: a file
that llama.cpp loads and computes something else with is worse than none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from llamatelemetry.errors import ModelFileError, UnknownNameError
from llamatelemetry.quantization.conversion.config_values import ConfigValues

__all__ = ["FAMILIES", "Family", "Weight", "family_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One tensor of every block, or one beside them.

    Attributes:
        name: What llama.cpp calls it, without ``blk.N.`` and ``.weight``.
        shape: Its sizes as transformers has them, by the names of ``Sizes.named``.
        rotated: ``queries`` or ``keys`` where its rows, head by head, go from halves to pairs. transformers rotates
            the first half of a head with the second, and llama.cpp, in this architecture, neighbours.
        bias: Whether it may have a bias.
    """

    name: str
    shape: tuple[str, ...]
    rotated: Literal["", "queries", "keys"] = ""
    bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models of one architecture.

    Attributes:
        architecture: Its name in GGUF files.
        block: Names of a block's tensors in checkpoints, to what becomes of them.
        activation: The activation function that llama.cpp has for it.
        default_activation: The one that its configuration means where it names none.
        default_head: Numbers in a head where a configuration does not say.
        tied: Whether the output is the embedding where a configuration does not say.
        norm_shift: What llama.cpp wants added to the weights of norms: transformers adds it when it runs.
        outer: Names of tensors beside the blocks, to what becomes of them.
    """

    architecture: str
    block: Mapping[str, Weight]
    activation: str = "silu"
    default_activation: str = "silu"
    default_head: int | None = None
    tied: bool = False
    norm_shift: float = 0.0
    outer: Mapping[str, Weight] = field(
        default_factory=lambda: MappingProxyType(
            {
                "model.embed_tokens": Weight(name="token_embd", shape=("vocabulary", "hidden")),
                "model.norm": Weight(name="output_norm", shape=("hidden",)),
                "lm_head": Weight(name="output", shape=("vocabulary", "hidden")),
            }
        )
    )


def _attention(*, pairs: bool) -> dict[str, Weight]:
    """Queries, keys and values apart; with ``pairs`` where llama.cpp rotates neighbours."""
    return {
        "self_attn.q_proj": Weight(
            name="attn_q", shape=("queries", "hidden"), rotated="queries" if pairs else "", bias=True
        ),
        "self_attn.k_proj": Weight(name="attn_k", shape=("keys", "hidden"), rotated="keys" if pairs else "", bias=True),
        "self_attn.v_proj": Weight(name="attn_v", shape=("keys", "hidden"), bias=True),
        "self_attn.o_proj": Weight(name="attn_output", shape=("hidden", "queries"), bias=True),
    }


_HEAD_NORMS: Final = {
    "self_attn.q_norm": Weight(name="attn_q_norm", shape=("head",)),
    "self_attn.k_norm": Weight(name="attn_k_norm", shape=("head",)),
}
_GATED: Final = {
    "mlp.gate_proj": Weight(name="ffn_gate", shape=("wide", "hidden"), bias=True),
    "mlp.up_proj": Weight(name="ffn_up", shape=("wide", "hidden"), bias=True),
    "mlp.down_proj": Weight(name="ffn_down", shape=("hidden", "wide"), bias=True),
}
_TWO_NORMS: Final = {
    "input_layernorm": Weight(name="attn_norm", shape=("hidden",)),
    "post_attention_layernorm": Weight(name="ffn_norm", shape=("hidden",)),
}
_FOUR_NORMS: Final = {
    "input_layernorm": Weight(name="attn_norm", shape=("hidden",)),
    "post_attention_layernorm": Weight(name="post_attention_norm", shape=("hidden",)),
    "pre_feedforward_layernorm": Weight(name="ffn_norm", shape=("hidden",)),
    "post_feedforward_layernorm": Weight(name="post_ffw_norm", shape=("hidden",)),
}
_FUSED: Final = {
    "self_attn.qkv_proj": Weight(name="attn_qkv", shape=("queries, keys, values", "hidden")),
    "self_attn.o_proj": Weight(name="attn_output", shape=("hidden", "queries")),
    "mlp.gate_up_proj": Weight(name="ffn_up", shape=("two wide", "hidden")),
    "mlp.down_proj": Weight(name="ffn_down", shape=("hidden", "wide")),
}

_LLAMA: Final = Family(architecture="llama", block={**_TWO_NORMS, **_attention(pairs=True), **_GATED})
_QWEN2: Final = Family(architecture="qwen2", block={**_TWO_NORMS, **_attention(pairs=False), **_GATED})
_QWEN3: Final = Family(
    architecture="qwen3",
    block={**_TWO_NORMS, **_attention(pairs=False), **_HEAD_NORMS, **_GATED},
    default_head=128,
)
_TANH: Final = "gelu_pytorch_tanh"
_GEMMA2: Final = Family(
    architecture="gemma2",
    block={**_FOUR_NORMS, **_attention(pairs=False), **_GATED},
    default_head=256,
    tied=True,
    norm_shift=1.0,
    activation=_TANH,
    default_activation=_TANH,
)
_GEMMA3: Final = Family(
    architecture="gemma3",
    block={**_FOUR_NORMS, **_attention(pairs=False), **_HEAD_NORMS, **_GATED},
    default_head=256,
    tied=True,
    norm_shift=1.0,
    activation=_TANH,
    default_activation=_TANH,
)
_PHI3: Final = Family(architecture="phi3", block={**_TWO_NORMS, **_FUSED})

FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "Gemma2ForCausalLM": _GEMMA2,
        "Gemma3ForCausalLM": _GEMMA3,
        "LlamaForCausalLM": _LLAMA,
        "MistralForCausalLM": _LLAMA,
        "Phi3ForCausalLM": _PHI3,
        "Qwen2ForCausalLM": _QWEN2,
        "Qwen3ForCausalLM": _QWEN3,
    }
)
"""Names of models in a configuration's ``architectures`` to their families. SmolLM and SmolLM2 are Llamas."""

_MOST_SHOWN: Final = 100


def family_of(values: ConfigValues) -> Family:
    """The family of the model that a configuration is of.

    Raises:
        UnknownNameError: It is of none of them.
        ModelFileError: It does not say, is quantized, or has an activation that llama.cpp has not for it.
    """
    names = values.texts("architectures")
    if not names:
        raise values.refused("architectures", f"the name of the model is needed, one of {', '.join(FAMILIES)}")
    family = FAMILIES.get(names[0])
    if family is None:
        hint = f"{values.path} names it; other architectures are not converted"
        raise UnknownNameError("convertible architecture", names[0][:_MOST_SHOWN], tuple(FAMILIES), hint)
    if values.has("quantization_config"):
        raise ModelFileError(values.path, "is of quantized weights: convert the model that they were made from")
    key = "hidden_activation" if values.has("hidden_activation") else "hidden_act"
    activation = values.text(key, family.default_activation)
    # Configurations of Gemma say gelu and mean the approximation by tanh, which transformers uses for them too.
    if activation not in {family.activation, "gelu" if family.activation.startswith("gelu") else family.activation}:
        raise values.refused(key, f"llama.cpp computes {family.architecture} with {family.activation}")
    return family
