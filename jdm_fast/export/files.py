"""``export_networks``: a run to a folder of exported networks, each compared with the run before it gets its name.

::

    encoder_x.onnx  encoder_y.onnx      images [batch, 3, height, width] in [-1, 1] to latents
    decoder_x.onnx  decoder_y.onnx      latents to images
    export.json                         what they are: method, step, sizes, names and axes, the differences measured
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

import jdm_fast
from jdm_fast._files import make_folder
from jdm_fast.errors import UserError
from jdm_fast.export import formats
from jdm_fast.export.plain import plain_copy
from jdm_fast.networks.autoencoder import Decoder, Encoder
from jdm_fast.runs import Run, load_run

Format = Literal["onnx", "pt2"]
FORMATS: tuple[Format, ...] = ("onnx", "pt2")

TOLERANCE = 1e-3
"""Largest difference between an exported network and the run's own, relative to the largest value there is. A wrong
operation or weight differs by far more; rounding in float32 by far less, see docs/export.md."""


@dataclass
class Exported:
    """The folder, its files, and by file the largest difference from the run, relative to the largest value."""

    folder: Path
    files: list[Path] = field(default_factory=list)
    differences: dict[str, float] = field(default_factory=dict)


def export_networks(
    run: str | os.PathLike[str],
    output: str | os.PathLike[str],
    format: Format = "onnx",
    *,
    step: int | Literal["best"] | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> Exported:
    """Write the encoder and the decoder of each domain of a run, with a batch and sides that are free.

    The files hold float32 weights and PyTorch's or ONNX's own operations: no code of this package is needed to run
    them. Each is read back, run on random input of several sizes and compared with the run's network.

    Args:
        run: the folder that training wrote, or a file of :func:`jdm_fast.runs.export_generators`.
        output: the folder to make; it must not be there, or be empty. It gets its name when everything is in it.
        format: ``onnx`` (opset 18, for onnxruntime and others) or ``pt2`` (``torch.export.load``).
        step: which checkpoint, see :func:`jdm_fast.runs.load_run`.
        on_progress: called with the number of networks done and the number in all.

    Raises:
        UserError: an unknown format, no run, a run without latents, something at ``output``, a folder that cannot be
            written, packages that are missing; or an exported network that differs from the run's.
    """
    output = Path(output)
    if format not in FORMATS:
        raise UserError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    _check_output(output)
    formats.require(format)
    loaded = load_run(run, step=step)
    networks = _networks(loaded)
    temporary = output.absolute().with_name(f".{output.absolute().name}.{os.getpid()}.tmp")
    make_folder(temporary.parent)
    result = Exported(output)
    try:
        temporary.mkdir()
        for done, (name, network) in enumerate(networks.items()):
            if on_progress:
                on_progress(done, len(networks))
            path = temporary / f"{name}.{format}"
            result.differences[path.name] = _export_one(path, network, loaded, format)
            result.files.append(output / path.name)
        text = json.dumps(_description(loaded, format, result.differences), indent=2)
        (temporary / "export.json").write_text(text + "\n", encoding="utf-8")
        result.files.append(output / "export.json")
        os.replace(temporary, output)
    except OSError as error:
        raise UserError(
            f"{output}: cannot be written: {error.strerror or error}. Free some space or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            shutil.rmtree(temporary)
    if on_progress:
        on_progress(len(networks), len(networks))
    return result


def _check_output(output: Path) -> None:
    if output.is_dir():
        if any(output.iterdir()):
            raise UserError(f"{output}: there is something in this folder; choose a new one, or remove it first")
    elif output.exists() or output.is_symlink():
        raise UserError(f"{output}: a file is there, the networks need a folder; choose another name")


def _networks(run: Run) -> dict[str, nn.Module]:
    """By the name of the file without its ending."""
    method: Any = run.method
    if not (hasattr(method, "encoders") and hasattr(method, "decoders")):
        raise UserError(
            f"{run.path}: a run of {run.method_name} has no latents, and so no encoders and decoders to export; "
            "expected a run of jwdm"
        )
    named = {"encoder": method.encoders, "decoder": method.decoders}
    return {f"{kind}_{domain}": networks[domain] for kind, networks in named.items() for domain in method.domains}


def _export_one(path: Path, network: Encoder | Decoder, run: Run, format: Format) -> float:
    """Write one network and return how far what was written is from it."""
    is_encoder = isinstance(network, Encoder)
    names = ("images", "latents") if is_encoder else ("latents", "images")
    cases = _inputs(network, run.method)
    # Sides of images are exported as multiples, so that no reader is told that it may use others.
    multiple = run.method.size_multiple if is_encoder else 1
    formats.write(format, path, plain_copy(network), cases[0], names, multiple)
    exported = formats.read(format, path)
    worst = 0.0
    for case in cases:
        with torch.inference_mode():
            expected = network(case).numpy()
        made = exported(case)
        if made.shape != expected.shape:
            raise UserError(
                f"{path.name}: gives {list(made.shape)} for {list(case.shape)}, the run gives {list(expected.shape)}; "
                "nothing was written. Try the other format, or another version of torch and onnxscript"
            )
        # Not max(): it would pass over what is no number.
        difference = float(np.abs(made - expected).max() / max(1.0, float(np.abs(expected).max())))
        if not difference <= TOLERANCE:
            raise UserError(
                f"{path.name}: differs from the run by {difference:.2g} of the largest value, more than {TOLERANCE:g}; "
                "nothing was written. Try the other format, or another version of torch and onnxscript"
            )
        worst = max(worst, difference)
    return worst


def _inputs(network: Encoder | Decoder, method: Any) -> list[Tensor]:
    """What an exported network is traced with (the first) and compared on: batches and sizes that all differ."""
    generator = torch.Generator().manual_seed(0)
    multiple, minimum = method.size_multiple, method.minimum_size
    cases = []
    for batch, height, width in ((2, 2, 3), (1, 0, 0), (3, 5, 1)):  # sides above the smallest, in multiples
        sides = (minimum + height * multiple, minimum + width * multiple)
        if isinstance(network, Decoder):
            kernel = network.embedding.kernel_size[0]
            sides = tuple(side // multiple - kernel + 1 for side in sides)
            shape = (batch, network.embedding.in_channels, *sides)
            cases.append(torch.randn(shape, generator=generator).relu_())
        else:
            shape = (batch, network.down_sampling[0].in_channels, *sides)
            cases.append(torch.rand(shape, generator=generator) * 2 - 1)
    return cases


def _description(run: Run, format: Format, differences: dict[str, float]) -> dict[str, Any]:
    method: Any = run.method
    return {
        "jdm_fast": jdm_fast.__version__,
        "torch": torch.__version__,
        "method": run.method_name,
        "step": run.step,
        "format": format,
        **({"opset": formats.OPSET} if format == "onnx" else {}),
        "domains": list(method.domains),
        "images": "float32 [batch, channels, height, width] in [-1, 1]",
        "channels": method.config.channels,
        "size_multiple": method.size_multiple,
        "minimum_size": method.minimum_size,
        "largest_difference": differences,
    }
