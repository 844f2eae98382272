"""Writing a network in each format, and running what was written."""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from jdm_fast.errors import UserError

OPSET = 18
"""Of the ONNX files: onnxruntime has it since 1.14, and every operation here is in it."""

_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "pt2": ()}


def require(format: str) -> None:
    """UserError if packages that ``format`` needs are missing."""
    missing = [name for name in _PACKAGES[format] if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"format={format} needs {', '.join(missing)}: pip install 'jdm_fast[export]', or use format=pt2"
        )


def write(format: str, path: Path, network: nn.Module, example: Tensor, names: tuple[str, str], multiple: int) -> None:
    """Export ``network``, a function of one map [N, C, H, W].

    Args:
        path: the file to write.
        example: an input; its batch and sides are free in what is written.
        names: of input and output.
        multiple: sides are multiples of this.
    """
    height, width = torch.export.Dim("height", min=1), torch.export.Dim("width", min=1)
    if multiple > 1:
        height, width = multiple * height, multiple * width
    free = ({0: torch.export.Dim("batch", min=1), 2: height, 3: width},)
    with torch.no_grad(), _quiet():
        if format == "pt2":
            program = torch.export.export(network, (example,), dynamic_shapes=free)
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)  # paths of the machine that exported are nobody's business
            content = io.BytesIO()
            torch.export.save(program, content)
            path.write_bytes(content.getbuffer())  # here a full disk is an OSError
            return
        made = torch.onnx.export(
            network,
            (example,),
            dynamic_shapes=free,
            input_names=names[:1],
            output_names=names[1:],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        for node in made.model.graph:
            node.metadata_props.clear()  # as above
        path.write_bytes(made.model_proto.SerializeToString())


def read(format: str, path: Path) -> Callable[[Tensor], np.ndarray]:
    """What was written as a function from an input to the output."""
    if format == "pt2":
        with _quiet():
            module = torch.export.load(path).module()
        return lambda value: module(value).detach().numpy()
    import onnx
    import onnxruntime

    onnx.checker.check_model(str(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda value: session.run(None, {name: value.numpy()})[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters' remarks on their own code are of no use here: what they made is compared afterwards."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
