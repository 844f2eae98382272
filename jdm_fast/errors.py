"""Errors that are messages to the person at the keyboard, not signs of a bug."""

from __future__ import annotations

import signal


class UserError(ValueError):
    """Bad input or an impossible request.

    The message names the file, field or tensor, what was expected, what came, and what to do. The command line prints
    it without a traceback and exits with status 2.
    """


class Stopped(UserError):
    """The program was asked to end by a signal.

    Attributes:
        signal: its number. exit_status: 128 + signal, which shells expect of a program ended by one.
    """

    def __init__(self, number: int, what: str, kept: str) -> None:
        super().__init__(f"{what} by {signal.Signals(number).name}{kept}")
        self.signal, self.exit_status = number, 128 + number


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind where it has none: libraries' own errors go on for pages."""
    return (str(error).splitlines() or [type(error).__name__])[0]
