"""A run's encoders and decoders as files that run without this package: ONNX, or programs of torch.export."""

from __future__ import annotations

from jdm_fast.export.files import FORMATS, Exported, export_networks

__all__ = ["FORMATS", "Exported", "export_networks"]
