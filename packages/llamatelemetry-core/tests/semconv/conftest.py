"""Teaches hypothesis to draw facts in which any field may be missing, for the tests of the tables."""

from __future__ import annotations

import dataclasses
import types
import typing

from hypothesis import strategies as st

from llamatelemetry.semconv.facts import InferenceFacts

_TEXT = st.text(max_size=8)
_OF_TYPE = {
    str: _TEXT,
    bool: st.booleans(),
    int: st.integers(0, 2**53),
    # Callers write whole numbers where a float is meant: temperature=0.
    float: st.floats(0, 1e9) | st.integers(0, 10),
    tuple[str, ...]: st.lists(_TEXT, max_size=3).map(tuple),
}


def _values(hint):
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return st.one_of(*(st.none() if option is types.NoneType else _OF_TYPE[option] for option in options))


_HINTS = typing.get_type_hints(InferenceFacts)
_FIELDS = {field.name: _values(_HINTS[field.name]) for field in dataclasses.fields(InferenceFacts)}
_FIELDS["operation"] = st.sampled_from(("chat", "text_completion", "embeddings"))
st.register_type_strategy(InferenceFacts, st.builds(InferenceFacts, **_FIELDS))
