"""Checks of the methods' configurations."""

from __future__ import annotations

import math

from jdm_fast.errors import UserError


def require(field: str, condition: bool, expected: str, value: object) -> None:
    """Raise UserError naming ``method.field``, what was expected and what came, unless ``condition`` holds."""
    if not condition:
        raise UserError(f"method.{field}: expected {expected}, got {value!r}")


def is_integer(value: object, minimum: int) -> bool:
    """Whether ``value`` is a whole number of at least ``minimum``; a truth value is none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite number of at least 0; a truth value is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
