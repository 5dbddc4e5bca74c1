from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamatelemetry.config import Settings
from llamatelemetry.errors import ConfigurationError
from llamatelemetry.otel.redaction import Redactor, redactor_for

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
KEY_BLOCK = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\n-----END RSA PRIVATE KEY-----"
ENCRYPTED_BLOCK = KEY_BLOCK.replace(
    "KEY-----\nMII", "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0A\n\nMII"
)
PGP_BLOCK = (
    "-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: GnuPG v2 (GNU/Linux)\n\nlQOYBF=\n=ab\n"
    "-----END PGP PRIVATE KEY BLOCK-----"
)
SECRETS = {
    "sk-proj-abcdefghijklmnopqrstuvwx_12": "api_key",
    "sk-ant-api03-abcdefghijklmnopqrst": "api_key",
    "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH": "api_key",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789": "api_key",
    "github_pat_11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz": "api_key",
    "glpat-abcdefghijklmnopqrst": "api_key",
    "xoxb-123456789012-abcdef": "api_key",
    "AIzaSyA1234567890abcdefghijklmnopqrstuv": "api_key",
    "AKIAIOSFODNN7EXAMPLE": "api_key",
    "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY": "api_key",
    "Bearer abcdefghijklmnop.qrst==": "bearer_token",
    JWT: "jwt",
    KEY_BLOCK: "private_key",
    KEY_BLOCK.replace("\n", "\\n"): "private_key",  # As a service account's file has it, in JSON.
    ENCRYPTED_BLOCK: "private_key",
    PGP_BLOCK: "private_key",
    "ada.lovelace+x@sub.example.co.uk": "email",
    "4111 1111 1111 1111": "card",
    "5500-0000-0000-0004": "card",
    "378282246310005": "card",
}
HARMLESS = (
    "The capital of France is Paris.",
    "ask-questions-later, a task-oriented desk-1234567890123456",
    "hf_short and sk-short and ghp_",
    "The bearer of good news",
    "user@localhost, @mention, a @ b",
    "order 4111 1111 1111 1112",  # Fails the Luhn check.
    "at 1795337763339717197 ns, 0.4111111111111111, pi 3.14159265358979323846",
    "trace 64a3f729f6c1973a65c76c249c15a043",
)


@pytest.mark.parametrize(("secret", "kind"), SECRETS.items())
def test_a_secret_inside_a_sentence_is_replaced_by_its_kind(secret: str, kind: str) -> None:
    assert Redactor().text(f"please use ({secret}), thanks") == f"please use ([redacted:{kind}]), thanks"


@pytest.mark.parametrize("text", HARMLESS)
def test_text_without_secrets_stays_as_it_is(text: str) -> None:
    assert Redactor().text(text) == text


def test_a_card_beside_other_digits_is_found() -> None:
    assert Redactor().text("12 4111 1111 1111 1111 99") == "12 [redacted:card] 99"


def test_an_email_at_the_end_of_a_sentence_leaves_the_full_stop() -> None:
    assert Redactor().text("Write to a@example.com.") == "Write to [redacted:email]."


def test_hashes_tell_equal_secrets_from_different_ones() -> None:
    redactor = Redactor("hash")
    first, again, other = (redactor.text(mail) for mail in ("a@example.com", "a@example.com", "b@example.com"))
    assert re.fullmatch(r"\[redacted:email:[0-9a-f]{12}\]", first)
    assert first == again != other


def test_a_card_has_one_hash_however_it_is_grouped() -> None:
    redactor = Redactor("hash")
    assert redactor.text("4111 1111 1111 1111") == redactor.text("4111111111111111")


def test_off_changes_nothing() -> None:
    redactor = Redactor("off", keys=["password"])
    assert redactor.text(JWT) == JWT
    assert redactor.value("password", "x") == "x"


def test_custom_patterns_are_secrets_too() -> None:
    assert Redactor(patterns=[r"EMP-\d{4}"]).text("I am EMP-1234") == "I am [redacted:custom]"


@pytest.mark.parametrize(("pattern", "why"), [("(", "unterminated"), ("x*", "does not match the empty text")])
def test_a_pattern_that_cannot_be_used_is_a_configuration_error(pattern: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"redact_patterns=.*{why}"):
        redactor_for(Settings(redact_patterns=(pattern,)))


def test_denied_keys_hide_whole_values_at_any_depth_and_in_any_case() -> None:
    redactor = Redactor(keys=["Password"])
    given: dict[str, Any] = {"messages": [{"role": "user", "password": {"a": 1}, "content": "mail a@example.com"}]}
    assert redactor.value("body", given) == {
        "messages": [{"role": "user", "password": "[redacted:denied]", "content": "mail [redacted:email]"}]
    }
    assert redactor.value("PASSWORD", 12) == "[redacted:denied]"


def test_a_key_that_was_cut_off_is_taken_out_as_far_as_it_goes() -> None:
    cut = KEY_BLOCK.partition("-----END")[0]
    assert Redactor().text(f"{cut}, and so on") == "[redacted:private_key], and so on"
    assert Redactor().text(cut.replace("\n", "\\n") + '", "id": 1') == '[redacted:private_key]", "id": 1'


def test_values_keep_their_types() -> None:
    redactor = Redactor()
    assert redactor.value("k", ("a@example.com", 1, 2.5, None, True)) == ("[redacted:email]", 1, 2.5, None, True)
    assert redactor.value("k", 7) == 7


pieces = st.sampled_from(
    [
        "sk-",
        "eyJ",
        ".",
        "@",
        "-",
        "a",
        "1",
        " ",
        "=",
        "Bearer ",
        "aws",
        "secret",
        "-----BEGIN ",
        "-----END ",
        "PRIVATE KEY-----",
    ]
)


@given(st.lists(st.one_of(pieces, st.text(max_size=5)), max_size=200).map("".join))
@settings(deadline=None)
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = Redactor().text(text)
    assert Redactor().text(once) == once


@given(st.lists(pieces, min_size=1, max_size=6).map("".join))
@settings(deadline=None, max_examples=60)
def test_time_grows_with_the_text_and_not_with_its_square(unit: str) -> None:
    def seconds(length: int) -> float:
        text = (unit * (length // len(unit) + 1))[:length]
        started = time.process_time()
        Redactor().text(text)
        return time.process_time() - started

    # Sixteen times the text takes about sixteen times as long; quadratic would be 256 times.
    short = max(min(seconds(4000) for _ in range(2)), 0.0005)
    assert min(seconds(64_000) for _ in range(2)) < 80 * short
