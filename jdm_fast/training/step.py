"""One training step; the engines that carry it out are in :mod:`jdm_fast.training.engines`."""

from __future__ import annotations

from jdm_fast.training.engines import EagerEngine, Engine, make_engine

__all__ = ["EagerEngine", "Engine", "make_engine"]
