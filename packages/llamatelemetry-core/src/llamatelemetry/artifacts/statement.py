"""in-toto statements: what is said, and about which files. Provenance and signatures have this form in common.

Format: https://github.com/in-toto/attestation/tree/main/spec/v1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"


def statement(subject: Sequence[tuple[str, str]], predicate_type: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    """A statement as JSON has it.

    Args:
        subject: What it is about: names and their SHA-256.
        predicate_type: URI of what is said.
        predicate: What is said.
    """
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in subject],
        "predicateType": predicate_type,
        "predicate": dict(predicate),
    }
