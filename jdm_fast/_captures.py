"""CUDA graphs and the other threads of the process.

While one thread captures, a call in another that waits for the whole device, or for the context, breaks the capture,
whatever its mode: CUDA says that such a wait covers the captured stream too. Video decoders and the memory pools of
DALI make such calls. So whoever runs them in a thread holds :data:`alone` meanwhile, as does whoever captures; and
what works on in threads of its own, as the pipelines of pictures do, is closed before a capture begins.
"""

from __future__ import annotations

import threading

alone = threading.Lock()
