"""What the compiler made of the CUDA kernels, without a GPU: registers, local and shared memory, widths of accesses.

    make static-evidence          # build, then write docs/kernels_static.md

Reads the code for compute capability 9.0 out of the built extension with ``cuobjdump`` (PyTorch's Triton brings one).
tests/build/test_static_evidence.py holds a build against the table and against the rules that stand in it.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from jdm_fast import _extension
from jdm_fast._toolchain import cuda_candidates

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "kernels_static.md"
ARCHITECTURE = "sm_90a"
WIDE = 16  # bytes of the widest access

#: Kernels that may use local memory, and why.
LOCAL_MEMORY = {
    "slerp_weights": "sine and cosine of double precision; a few threads in all",
}


@dataclass(frozen=True)
class Kernel:
    """One kernel as it was compiled.

    Attributes:
        name: such as ``channels_forward<BFloat16, 8, true>``. registers: of a thread. local: instructions that access
            local memory. shared: bytes of static shared memory. loads, stores: instructions on global memory by the
            bytes that a thread moves; copies to shared memory count as loads.
    """

    name: str
    registers: int
    local: int
    shared: int
    loads: dict[int, int]
    stores: dict[int, int]

    @property
    def base(self) -> str:
        return self.name.partition("<")[0]

    @property
    def is_vectorised(self) -> bool:
        """Whether its instances are made for vectors: those of whole ones have the elements of 16 bytes in the name."""
        element, _, rest = self.name.partition("<")[2].rstrip(">").partition(", ")
        return {"float": "4", "BFloat16": "8", "Float16": "8"}.get(element) == rest.split(",")[0]


def cuobjdump() -> str | None:
    """The tool's path: on PATH, of the CUDA compiler, or of Triton; None if there is none."""
    if found := shutil.which("cuobjdump"):
        return found
    spec = importlib.util.find_spec("triton")
    triton = (Path(place, "backends/nvidia") for place in (spec and spec.submodule_search_locations) or ())
    tools = (home / "bin" / "cuobjdump" for home in (*cuda_candidates(), *triton))
    return next((str(tool) for tool in tools if tool.is_file()), None)


def read_kernels(library: Path, tool: str) -> list[Kernel]:
    """Every kernel of ``library`` for :data:`ARCHITECTURE`, by name."""
    path = f"{Path(tool).parent}:/usr/bin:/bin"  # it calls nvdisasm, which lies beside it

    def run(option: str) -> str:
        command = [tool, "-arch", ARCHITECTURE, option, str(library)]
        return subprocess.run(command, capture_output=True, text=True, check=True, env={"PATH": path}).stdout

    usage = dict(re.findall(r"Function (\S+):\n\s*(REG:.*)", run("-res-usage")))
    counts: dict[str, Counter[tuple[str, int]]] = {}
    own: Counter[tuple[str, int]] = Counter()
    for line in run("-sass").splitlines():
        if "Function : " in line:
            own = counts[line.split()[-1]] = Counter()
        elif match := re.search(r"\b(LDG|STG|LDGSTS|LDL|STL)\b((?:\.\w+)*)", line):
            own[match[1], _bytes(match[2])] += 1
    names = _demangled(list(usage))
    kernels = []
    for symbol, text in usage.items():
        numbers = dict(re.findall(r"(\w+):(\d+)", text))
        of = counts.get(symbol, Counter())
        kernels.append(
            Kernel(
                name=names[symbol],
                registers=int(numbers["REG"]),
                local=sum(count for (word, _), count in of.items() if word in ("LDL", "STL")),
                shared=max(0, int(numbers["SHARED"]) - 1024),  # of which the system has 1 KiB on this architecture
                loads=_by_size(of, ("LDG", "LDGSTS")),
                stores=_by_size(of, ("STG",)),
            )
        )
    return sorted(kernels, key=lambda kernel: kernel.name)


def broken_rules(kernels: list[Kernel]) -> list[str]:
    """What goes against the rules, in words."""
    broken = [
        f"{kernel.name}: {kernel.local} accesses of local memory"
        for kernel in kernels
        if kernel.local and kernel.base not in LOCAL_MEMORY
    ]
    broken += [
        f"{kernel.name}: no access of {WIDE} bytes"
        for kernel in kernels
        if kernel.is_vectorised and WIDE not in {**kernel.loads, **kernel.stores}
    ]
    return broken


def table(kernels: list[Kernel], compiler: str) -> str:
    """The page."""
    lines = [
        "# The kernels as they were compiled",
        "",
        f"For compute capability 9.0, by {compiler}. Written by `make static-evidence`; a test checks it.",
        "",
        "*Local* are instructions that access local memory (spilled registers, arrays with run-time indices): none,",
        "but for those listed below. Loads and stores are instructions on global memory by the bytes a thread moves:",
        "kernels for vectors move 16 at once, the narrow ones in them are loose ends and statistics.",
        "",
        *(f"- `{name}` may use local memory: {why}." for name, why in sorted(LOCAL_MEMORY.items())),
        "",
        "| kernel | registers | local | shared bytes | loads | stores |",
        "|---|---|---|---|---|---|",
    ]
    for kernel in kernels:
        loads, stores = (
            ", ".join(f"{count} x {size}" for size, count in sorted(widths.items(), reverse=True))
            for widths in (kernel.loads, kernel.stores)
        )
        cells = (f"`{kernel.name}`", kernel.registers, kernel.local or "", kernel.shared or "", loads, stores)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def library() -> Path | None:
    """The built extension, if it holds code for :data:`ARCHITECTURE`."""
    if "9.0a" not in str(_extension.build_config()["cuda_architectures"]):
        return None
    spec = importlib.util.find_spec("jdm_fast._C")
    return None if spec is None or spec.origin is None else Path(spec.origin)


def compiler_of(path: Path) -> str:
    """``CUDA 13.0``, as the compiler has left its version in the library."""
    found = sorted(set(re.findall(rb"Cuda compilation tools, release ([\d.]+)", path.read_bytes())))
    return f"CUDA {found[-1].decode()}" if found else "an unknown compiler"


def _bytes(modifiers: str) -> int:
    for size in (128, 64):
        if re.search(rf"\.{size}(\.|$)", modifiers):
            return size // 8
    return 2 if "16" in modifiers else 1 if "8" in modifiers else 4


def _by_size(counts: Counter[tuple[str, int]], words: tuple[str, ...]) -> dict[int, int]:
    sizes: Counter[int] = Counter()
    for (word, size), count in counts.items():
        if word in words:
            sizes[size] += count
    return dict(sizes)


def _demangled(symbols: list[str]) -> dict[str, str]:
    text = subprocess.run(["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True).stdout
    names = {}
    for symbol, name in zip(symbols, text.splitlines(), strict=True):
        name = re.sub(
            r"\(.*",
            "",
            name.replace("(anonymous namespace)::", "")
            .replace("jdm_fast::", "")
            .replace("cuda::", "")
            .replace("(bool)0", "false")
            .replace("(bool)1", "true"),
        )
        names[symbol] = re.sub(r"^void ", "", name).strip()
    return names


def main() -> None:
    path, tool = library(), cuobjdump()
    if path is None or tool is None:
        raise SystemExit(
            "static_evidence: needs an extension built for 9.0a (make venv) and cuobjdump, which comes with Triton"
        )
    kernels = read_kernels(path, tool)
    TABLE.write_text(table(kernels, compiler_of(path)))
    broken = broken_rules(kernels)
    print("\n".join([f"{len(kernels)} kernels: {TABLE}", *broken]))
    raise SystemExit(1 if broken else 0)


if __name__ == "__main__":
    main()
