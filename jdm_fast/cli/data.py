"""``jdm-fast data WHAT``: data sets to train on. Each is a module ``data_<what>``, imported only when it is called."""

from __future__ import annotations

import importlib

from jdm_fast.errors import UserError

WHAT = {
    "earth": "write satellite, relief, topographic and land/sea pictures of the Earth, with known truth",
    "seasons": "write summer and winter textures of the same ground, with known truth",
    "frames": "write the frames of a video as pictures",
    "check": "say what a data set is, and find unreadable or odd files before training does",
    "fetch": "fetch real pictures and videos into the cache",
}


def run(arguments: list[str]) -> int:
    """Dispatch to the command that ``arguments`` begin with, one of :data:`WHAT`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: jdm-fast data WHAT ... [OPTIONS]    (jdm-fast data WHAT --help for its options)\n")
        print("\n".join(f"  {name:8} {text}" for name, text in WHAT.items()))
        return 0 if arguments else 2
    if arguments[0] not in WHAT:
        raise UserError(f"jdm-fast data has no {arguments[0]!r}; there are: {', '.join(WHAT)}")
    return importlib.import_module(f"jdm_fast.cli.data_{arguments[0]}").run(arguments[1:])
