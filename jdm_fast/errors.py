"""Errors that are messages to the person at the keyboard, not signs of a bug."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input or an impossible request.

    The message names the file, field or tensor, what was expected, what came, and what to do. The command line prints
    it without a traceback and exits with status 2.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind where it has none: libraries' own errors go on for pages."""
    return (str(error).splitlines() or [type(error).__name__])[0]
