"""Secrets, taken out of text before it reaches a span or a log record.

Every pattern runs in time linear in the text: prompts are long and anyone may write them. Where a
match could begin at many places, a look-behind allows only the first of a run, and what may repeat
is bounded or cannot overlap with what follows it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from llamatelemetry.config import Redaction, Settings
from llamatelemetry.errors import ConfigurationError

_WORD: Final = "(?<![A-Za-z0-9])"

PATTERNS: Final[tuple[tuple[str, str], ...]] = (
    (
        "private_key",
        # A whole block, whatever is in it: headers, line ends as JSON has them. Else as much as looks like one.
        (
            r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
            r"(?:(?:[^-]|-(?!----))*+-----END [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----|[A-Za-z0-9+/=\s\\]*+)"
        ),
    ),
    # header.payload.signature; each part base64url, the first two JSON objects.
    ("jwt", r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{6,}+\.eyJ[A-Za-z0-9_-]{4,}+\.[A-Za-z0-9_-]{6,}+"),
    # https://datatracker.ietf.org/doc/html/rfc6750#section-2.1
    ("bearer_token", r"(?i:\bbearer)[ \t]{1,4}[A-Za-z0-9._~+/-]{16,}+=*+"),
    ("api_key", _WORD + r"sk-[A-Za-z0-9_-]{16,}+"),  # OpenAI, Anthropic, OpenRouter, DeepSeek
    ("api_key", _WORD + r"hf_[A-Za-z0-9]{20,}+"),  # Hugging Face
    ("api_key", _WORD + r"(?:gh[pousr]_[A-Za-z0-9]{30,}+|github_pat_[A-Za-z0-9_]{22,}+)"),
    ("api_key", _WORD + r"glpat-[A-Za-z0-9_-]{20,}+"),  # GitLab
    ("api_key", _WORD + r"xox[abeoprs]-[A-Za-z0-9-]{10,}+"),  # Slack
    ("api_key", _WORD + r"AIza[A-Za-z0-9_-]{35}"),  # Google
    ("api_key", _WORD + r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"),  # AWS access key id
    ("api_key", r"(?i:aws.{0,20}secret.{0,20}?['\"\s:=]{1,4})[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])"),
    (
        "email",
        r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}+@(?:[A-Za-z0-9-]{1,63}+\.){1,8}[A-Za-z]{2,24}+",
    ),
)
"""Kinds of secrets and what they look like, in the order in which they are looked for."""

# ISO/IEC 7812: 13 to 19 digits, here in groups parted by single spaces or hyphens; never decimals.
_DIGITS: Final = re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,}+")
_GROUP: Final = re.compile(r"\d+")
_CARD_LENGTHS: Final = range(13, 20)


class Redactor:
    """Replaces secrets by ``[redacted:kind]`` or, to tell them apart, ``[redacted:kind:hash]``.

    A hash is the beginning of the secret's SHA-256: equal secrets stay equal, and who can guess a
    secret can check the guess. Immutable and thread-safe.

    Args:
        mode: ``mask``, ``hash``, or ``off`` to change nothing.
        patterns: More regular expressions; what they match is a secret. Their speed is the caller's concern.
        keys: Keys, in any case, whose whole value is a secret.

    Raises:
        ConfigurationError: A pattern is not a regular expression, or matches the empty text.
    """

    def __init__(self, mode: Redaction = "mask", patterns: Iterable[str] = (), keys: Iterable[str] = ()) -> None:
        self._mode = mode
        self._patterns = [(kind, re.compile(pattern)) for kind, pattern in PATTERNS]
        self._patterns += [("custom", _compiled(pattern)) for pattern in patterns]
        self._keys = frozenset(() if mode == "off" else (key.lower() for key in keys))

    def text(self, text: str, /) -> str:
        """The text without its secrets."""
        if self._mode == "off" or not text:
            return text
        for kind, pattern in self._patterns:
            text = pattern.sub(self._replacing(kind), text)
        return _DIGITS.sub(self._replace_cards, text)

    def denies(self, key: str) -> bool:
        """Whether the whole value of a key is a secret."""
        return key.lower() in self._keys

    @property
    def denies_any(self) -> bool:
        """Whether there is such a key at all."""
        return bool(self._keys)

    def attributes(self, attributes: Mapping[str, Any]) -> Mapping[str, Any]:
        """The attributes, with a stand-in for each value whose key is denied; their text is left as it is."""
        if self._keys.isdisjoint(map(str.lower, attributes) if self._keys else ()):
            return attributes
        return {
            key: self._stand_in("denied", str(value)) if self.denies(key) else value
            for key, value in attributes.items()
        }

    def value(self, key: str, value: Any) -> Any:
        """The value of an attribute, or of a field inside one, without its secrets.

        Args:
            key: Its name; a denied one makes the whole value a secret.
            value: Text, a sequence or a mapping of values; anything else is returned as it is.
        """
        if self._mode == "off":
            return value
        if self.denies(key):
            return self._stand_in("denied", str(value))
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {name: self.value(str(name), item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)([self.value(key, item) for item in value])
        return value

    def _stand_in(self, kind: str, secret: str) -> str:
        if self._mode == "mask":
            return f"[redacted:{kind}]"
        digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
        return f"[redacted:{kind}:{digest[:12]}]"

    def _replacing(self, kind: str) -> Callable[[re.Match[str]], str]:
        return lambda match: self._stand_in(kind, match.group()) if match.group() else ""

    def _replace_cards(self, run: re.Match[str]) -> str:
        text = run.group()
        groups = list(_GROUP.finditer(text))
        kept, position, index = [], 0, 0
        while index < len(groups):
            last = _card_at(groups, index)
            if last is None:
                index += 1
                continue
            start, end = groups[index].start(), groups[last].end()
            kept += [text[position:start], self._stand_in("card", _digits(groups, index, last))]
            position, index = end, last + 1
        return "".join([*kept, text[position:]])


def redactor_for(settings: Settings) -> Redactor:
    """The redactor that the settings ask for.

    Raises:
        ConfigurationError: A pattern cannot be used.
    """
    return Redactor(settings.redaction, settings.redact_patterns, settings.redact_keys)


_DEFAULT: Final = Redactor()
_installed: Redactor = _DEFAULT


def current_redactor() -> Redactor:
    """The redactor in force: that of ``init()``, and before it one that masks what is known to be secret."""
    return _installed


def install_redactor(redactor: Redactor | None) -> None:
    """Makes a redactor the one in force; None goes back to the one before ``init()``."""
    global _installed  # noqa: PLW0603 - a process has one, as it has one telemetry
    _installed = _DEFAULT if redactor is None else redactor


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigurationError("redact_patterns", pattern, f"give a regular expression: {error}") from None
    if compiled.fullmatch(""):
        raise ConfigurationError("redact_patterns", pattern, "give one that does not match the empty text")
    return compiled


def _card_at(groups: list[re.Match[str]], first: int) -> int | None:
    """Index of the last group of a card number that begins with group ``first``, or None."""
    for last in range(first, min(first + max(_CARD_LENGTHS), len(groups))):
        digits = _digits(groups, first, last)
        if len(digits) > max(_CARD_LENGTHS):
            return None
        if len(digits) in _CARD_LENGTHS and digits[0] in "23456" and _passes_luhn(digits):
            return last
    return None


def _digits(groups: list[re.Match[str]], first: int, last: int) -> str:
    return "".join(group.group() for group in groups[first : last + 1])


def _passes_luhn(digits: str) -> bool:
    # ISO/IEC 7812-1, annex B.
    doubled = [int(digit) * (2 if place % 2 else 1) for place, digit in enumerate(reversed(digits))]
    return sum(number - 9 if number > 9 else number for number in doubled) % 10 == 0
