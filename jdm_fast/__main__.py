"""``python -m jdm_fast``: the same as the ``jdm-fast`` command."""

from __future__ import annotations

from jdm_fast.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
