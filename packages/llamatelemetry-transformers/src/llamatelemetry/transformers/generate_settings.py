"""The generation settings that are in force for one call, as requests tell of them.

They are looked up in the order in which ``generate`` lets them override one another, and noted when the
call begins, as an application may change its configurations at any time. To make requests of them can
wait until somebody asks: what is noted here refers to no tensor and to no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llamatelemetry.backends.request import InferenceRequest, SamplingParams
from llamatelemetry.errors import InvalidRequestError

_DEFAULTS: Final[Mapping[str, Any]] = {"num_return_sequences": 1, "temperature": 1.0, "top_k": 50, "top_p": 1.0}
_NOTED: Final = (
    "assistant_early_exit",
    "do_sample",
    "eos_token_id",
    "max_length",
    "max_new_tokens",
    "max_time",
    "min_p",
    "num_beams",
    "num_return_sequences",
    "pad_token_id",
    "prompt_lookup_num_tokens",
    "repetition_penalty",
    "stop_strings",
    "temperature",
    "token_healing",
    "top_k",
    "top_p",
    "use_mtp",
)
"""Settings that somebody asks for; a configuration has four times as many."""


class GenerateSettings:
    """The settings of one call.

    Args:
        model: The model it is made on.
        arguments: All of the call's arguments, by name.
    """

    __slots__ = ("_configs", "_given")

    def __init__(self, model: Any, arguments: Mapping[str, Any]) -> None:
        self._given = _noted(arguments)
        configs = (arguments.get("generation_config"), getattr(model, "generation_config", None))
        self._configs = [_noted(vars(config)) for config in configs if hasattr(config, "__dict__")]

    def __getitem__(self, name: str) -> Any:
        """The value that is in force; None for what nobody has set."""
        if name in self._given:
            return self._given[name]
        for config in self._configs:
            value = config.get(name)
            if value is not None:
                return value
        return _DEFAULTS.get(name)

    def request(self, opened: InferenceRequest, new_tokens: Any) -> InferenceRequest:
        """A request with the settings; the request as it is, where they are none that it could have.

        Args:
            opened: The request without.
            new_tokens: Most tokens that may be generated.
        """
        try:
            return InferenceRequest(
                prompt=opened.prompt,
                messages=opened.messages,
                request_id=opened.request_id,
                max_tokens=_at_least_one(new_tokens),
                n=_at_least_one(self["num_return_sequences"]) or 1,
                sampling=self._sampling(),
                stop=_texts(self["stop_strings"]),
            )
        except InvalidRequestError:
            return opened

    def _sampling(self) -> SamplingParams:
        penalty = self["repetition_penalty"]
        used: dict[str, Any] = {} if penalty is None else {"repeat_penalty": float(penalty)}
        if self["do_sample"]:  # Else the rest is not used, whatever it says.
            for name in ("temperature", "top_k", "top_p", "min_p"):
                value = self[name]
                if value is not None:
                    used[name] = value if name == "top_k" else float(value)
        try:
            return SamplingParams(**used)
        except InvalidRequestError:
            return SamplingParams()  # transformers has its own word to say about it.


def _noted(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in _NOTED if name in values}


def _at_least_one(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 1 else None


def _texts(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(str(one) for one in value)
