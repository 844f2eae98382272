"""The command line: ``jdm-fast COMMAND``. The words a person types, and no logic.

Each command is a module of this package with a function ``run(arguments: list[str]) -> int``, imported only when it is
called, so that ``jdm-fast --help`` answers at once. Errors that are the user's to mend
(:class:`jdm_fast.errors.UserError`) are printed without a traceback and end with status 2.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import jdm_fast
from jdm_fast.errors import UserError

COMMANDS = {
    "demo": "train on real pictures of the Earth, translate both ways and make a two-domain video",
    "train": "train a method on two folders of images, or on a data set in one of many layouts",
    "translate": "translate a picture or a folder of pictures with a trained run",
    "sample": "draw pictures of all domains with a trained JointGAN, from nothing or for what is given",
    "video": "make an N-times longer video in both domains from a video, a folder of frames or two pictures",
    "export": "write a run's encoders and decoders as ONNX or torch.export files, which need no jdm_fast",
    "relevance": "learn from pairs how well two pictures belong together, and score others by it",
    "data": "check a data set, write pictures to train on: the Earth, seasons, the frames of a video",
    "bench": "measure the kernels against PyTorch's own operators, or how fast batches of your own files are made",
    "doctor": "show versions, GPU and build, and check every kernel against its reference",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"jdm_fast {jdm_fast.__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        print(f"jdm-fast: no command is called {name!r}\n\n{_usage()}", file=sys.stderr)
        return 2
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return importlib.import_module(f"jdm_fast.cli.{name}").run(rest)
    except UserError as error:
        print(f"jdm-fast {name}: {error}", file=sys.stderr)
        return getattr(error, "exit_status", 2)  # a run stopped by a signal ends with the shell's 128 + signal
    except KeyboardInterrupt:
        print(f"jdm-fast {name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone: nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Warnings to people without the line of code they come from; those to programmers as Python prints them."""
    text = f"jdm-fast: {message}\n"
    if category is not UserWarning:
        text = warnings.formatwarning(message, category, filename, lineno, line)
    print(text, end="", file=sys.stderr)


def _usage() -> str:
    lines = ["usage: jdm-fast COMMAND [OPTIONS]    (jdm-fast COMMAND --help for its options)", ""]
    lines += [f"  {name:10} {text}" for name, text in COMMANDS.items()]
    return "\n".join([*lines, "", "  --version  print the version"])
