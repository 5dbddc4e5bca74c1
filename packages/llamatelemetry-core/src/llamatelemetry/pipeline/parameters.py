"""Parameters of a file, held to what a stage's class takes before it is made."""

from __future__ import annotations

import difflib
import inspect
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from llamatelemetry.errors import InvalidValueError, PipelineDefinitionError

_HELD_TO: Final[Mapping[Any, tuple[type, ...]]] = {
    bool: (bool,),
    int: (int,),
    float: (int, float),
    str: (str,),
    Path: (str,),
    types.NoneType: (types.NoneType,),
    list: (list,),
    tuple: (list,),
    Sequence: (list,),
    dict: (dict,),
    Mapping: (dict,),
}
_SHOWN: Final[Mapping[Any, str]] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    Path: "a path",
    list: "a list",
    tuple: "a list",
    Sequence: "a list",
    dict: "a table",
    Mapping: "a table",
}


def signature_of(stage: type) -> dict[str, inspect.Parameter]:
    """What a stage's class takes, by name, with types instead of their names where those can be found."""
    try:
        hints = get_type_hints(inspect.getattr_static(stage, "__init__"))
    except Exception:  # noqa: BLE001 - a plugin's annotations may be anything; then nothing is known of them
        hints = {}
    try:
        taken = inspect.signature(stage).parameters
    except (TypeError, ValueError):
        return {}
    return {name: each.replace(annotation=hints.get(name, Any)) for name, each in taken.items()}


def make_stage(stage: type, parameters: Mapping[str, Any], *, where: str, folder: Path) -> Any:
    """An instance of a stage's class.

    Args:
        stage: The class.
        parameters: What a file says; a parameter that is a path is taken from the file's folder.
        where: What the parameters are called in errors.
        folder: The file's folder.

    Raises:
        PipelineDefinitionError: One is not known, missing, of another type, or not accepted; the error names it.
        LlamatelemetryError: Whatever else the class raises of ours.
    """
    taken = signature_of(stage)
    open_ended = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values())
    named = {name: each for name, each in taken.items() if each.kind in {each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY}}
    given = {}
    for name, value in parameters.items():
        if name not in named:
            if open_ended:
                given[name] = value
                continue
            raise PipelineDefinitionError(f"{where}.{name}", value, _unknown(name, named))
        hint = named[name].annotation
        if not fits(value, hint):
            raise PipelineDefinitionError(f"{where}.{name}", value, f"give {shown(hint)}")
        given[name] = folder / value if isinstance(value, str) and _is_path(hint) else value
    for name, each in named.items():
        if each.default is each.empty and name not in given:
            raise PipelineDefinitionError(f"{where}.{name}", None, f"it is required: give {shown(each.annotation)}")
    try:
        return stage(**given)
    except InvalidValueError as error:
        raise PipelineDefinitionError(f"{where}.{error.field}", error.value, error.fix) from error
    except (TypeError, ValueError) as error:
        raise PipelineDefinitionError(where, dict(parameters), str(error)) from error


def fits(value: object, hint: Any) -> bool:
    """Whether a value of a file may be of a type; True for types that a file's values cannot be held to."""
    origin = get_origin(hint)
    if origin in {Union, types.UnionType}:
        return any(fits(value, each) for each in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    wanted = _HELD_TO.get(hint if origin is None else origin)
    # A bool is an int to Python and to nobody else.
    return wanted is None or (isinstance(value, wanted) and (bool in wanted or not isinstance(value, bool)))


def shown(hint: Any) -> str:
    """A type in words."""
    origin = get_origin(hint)
    if origin is Literal:
        return " or ".join(repr(each) for each in get_args(hint))
    if origin in {Union, types.UnionType}:
        return " or ".join(shown(each) for each in get_args(hint) if each is not types.NoneType)
    return _SHOWN.get(hint if origin is None else origin, "a value")


def _is_path(hint: Any) -> bool:
    return hint is Path or Path in get_args(hint)


def _unknown(name: str, named: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, named, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"the stage takes {', '.join(named)}" if named else "the stage takes no parameters"
