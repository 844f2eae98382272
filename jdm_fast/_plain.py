"""Configuration dataclasses as plain JSON values, and back."""

from __future__ import annotations

import types
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from jdm_fast.errors import UserError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """A dataclass tree as dicts, lists, strings, numbers, booleans and None: what JSON can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a configuration cannot hold a {type(value).__name__}: {value!r}")


def from_plain(cls: type[T], values: Any, where: str, **given: Any) -> T:
    """The dataclass ``cls`` from what :func:`to_plain` made of one.

    Args:
        cls: a dataclass whose fields are plain types, Path, Literal, tuples, unions of those, or dataclasses.
        values: the mapping of its fields.
        where: names the file for messages.
        given: fields that have been converted already, instead of their plain values.

    Raises:
        UserError: a field is unknown, missing or of the wrong type; the message names it.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected the fields of {cls.__name__}, got {values!r}")
    values = {name: value for name, value in values.items() if name not in given}
    hints = get_type_hints(cls)
    unknown = sorted(set(values) - {field.name for field in fields(cls)})
    if unknown:
        raise UserError(
            f"{where}: {cls.__name__} has no field {', '.join(unknown)}. The file is damaged or was written by another "
            "version of jdm_fast: use that version"
        )
    arguments = dict(given)
    for field in fields(cls):
        if field.name in values:
            arguments[field.name] = _convert(hints[field.name], values[field.name], f"{where}: {field.name}")
        elif field.name not in given and field.default is MISSING and field.default_factory is MISSING:
            raise UserError(f"{where}: the field {field.name} of {cls.__name__} is missing")
    return cls(**arguments)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """``value`` as the type ``hint``, or a UserError that begins with ``where``."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        for option in get_args(hint):
            try:
                return _convert(option, value, where)
            except UserError:
                continue
    elif origin is Literal:
        if value in get_args(hint):
            return value
    elif origin is tuple:
        options = get_args(hint)
        if isinstance(value, list) and options and options[-1] is Ellipsis:
            return tuple(_convert(options[0], item, where) for item in value)
        if isinstance(value, list) and len(value) == len(options):
            return tuple(_convert(option, item, where) for option, item in zip(options, value, strict=True))
    elif is_dataclass(hint):
        return from_plain(hint, value, where)
    elif hint is type(None):
        if value is None:
            return None
    elif hint is Path:
        if isinstance(value, str):
            return Path(value)
    elif hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    raise UserError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {value!r}")
