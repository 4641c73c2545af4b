"""What a built kernel costs on the chip: registers, spills, machine instructions, and the machine code's own digest.

Read with the tools that triton's wheel brings (cuobjdump, nvdisasm), for AMD from the assembly text. A tool that is
missing leaves its figures empty and says so in `notes`; nothing is estimated in its place. No torch, no triton import
here: it also runs inside the builder's workers.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import struct
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Opcodes that tell how a kernel works. Vector widths are added for what moves data: "LDG.128".
TELLING = re.compile(
    r"[HQIB]GMMA|[HQID]MMA|UTC[HQIO]MMA|FFMA|FADD|FMUL|HFMA2|DFMA|MUFU|LDGSTS|UTMA(?:LDG|STG|REDG)|UBLKCP|LDG|STG|"
    r"LDS|STS|LDSM|STSM|LDL|STL|LDT|STT|SHFL|BAR|WARPSYNC|SYNCS|USETMAXREG|REDG?|ATOM[GS]?|I2F|F2F|F2FP|IMAD"
)
# What the body of a loop is there for.
WORKS = re.compile(r"[HQIDB]G?MMA|LDGSTS|LDG|UTMALDG|UBLKCP")
WIDE = re.compile(r"LDG|STG|LDGSTS|LDS|STS|LDL|STL")
# The same for AMD's assembly, by what the mnemonic begins with.
AMD = {"v_mfma": "MFMA", "global_load": "LDG", "buffer_load": "LDG", "global_store": "STG", "buffer_store": "STG"}
AMD |= {"ds_read": "LDS", "ds_write": "STS", "scratch_load": "LDL", "scratch_store": "STL", "s_barrier": "BAR"}
AMD |= {"v_exp": "MUFU", "global_atomic": "ATOMG", "v_fma_f32": "FFMA"}

INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P[T0-9]+\s+)?([A-Z][A-Z0-9_]*)((?:\.\w+)*)\s*([^;]*);")
LABEL = re.compile(r"^\s*(\.L_x_\d+):")
TOOL_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """Registers of a thread, bytes it spills, and instruction counts. `X@loop` counts those inside any loop, `X@inner`
    those in the innermost ones that multiply or load, of which there are `loops@inner`."""

    registers: int
    spills_bytes: int
    instructions: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def tool(name: str) -> Path | None:
    """Where triton's wheel keeps a tool of NVIDIA's, or None. Found without importing triton."""
    spec = importlib.util.find_spec("triton")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / name
    return path if path.is_file() else None


def inspect_cubin(cubin: Path, ptxas: str = "", *, listing: bool = True) -> Resources:
    """`ptxas` is the assembler's own log: a second source where cuobjdump is missing. The listing costs as much as the
    compile did (nvdisasm: 0.37 s of CPU time), and a tuner that has a clock does without."""
    usage, notes = _run("cuobjdump", "-res-usage", str(cubin))
    found = re.search(r"REG:(\d+) STACK:(\d+).*?LOCAL:(\d+)", usage)
    if found:
        registers, spills = int(found[1]), int(found[2]) + int(found[3])
    else:
        registers, spills = _figure(r"Used (\d+) registers", ptxas), _figure(r"(\d+) bytes stack frame", ptxas)
    if not listing:
        return Resources(registers=registers, spills_bytes=spills, notes=(*notes,))
    text, more = _run("nvdisasm", "-c", str(cubin))
    return Resources(registers=registers, spills_bytes=spills, instructions=count(text), notes=(*notes, *more))


def _figure(pattern: str, text: str) -> int:
    found = re.search(pattern, text, re.MULTILINE)
    return int(found[1]) if found else 0


def inspect_amd(text: str) -> Resources:
    """From the assembly's own metadata. Spilled registers are four bytes each, of every lane."""

    counts: Counter[str] = Counter()
    for mnemonic in re.findall(r"^\t([vsgbd][a-z0-9_]+)", text, re.MULTILINE):
        counts["total"] += 1
        counts.update(short for prefix, short in AMD.items() if mnemonic.startswith(prefix))
    counts["SGPR"] = _amd_figure("sgpr_count", text)
    spilled = _amd_figure("vgpr_spill_count", text) + _amd_figure("sgpr_spill_count", text)
    return Resources(registers=_amd_figure("vgpr_count", text), spills_bytes=4 * spilled, instructions=dict(counts))


def _amd_figure(key: str, text: str) -> int:
    return _figure(rf"^\s*\.{key}:\s+(\d+)", text)


def count(listing: str) -> dict[str, int]:
    """Telling opcodes of nvdisasm's text. A loop is what lies between a label and a later branch back to it."""
    rows = list(_instructions(listing))
    inside = _inside_loops(listing)
    counts: Counter[str] = Counter()
    for address, opcode, modifiers in rows:
        names = ["total"]
        if TELLING.fullmatch(opcode):
            names.append(opcode)
        if WIDE.fullmatch(opcode):
            names.append(f"{opcode}.{_width(modifiers)}")
        counts.update(names)
        if any(low <= address <= high for low, high in inside):
            counts.update(f"{name}@loop" for name in names)
    busy = innermost(inside, [address for address, opcode, _ in rows if WORKS.match(opcode)])
    for address, opcode, _ in rows if busy else ():
        if any(low <= address <= high for low, high in busy):
            counts.update(["total@inner", *(["mma@inner"] if "MMA" in opcode else [])])
    return dict(counts) | ({"loops@inner": len(busy)} if busy else {})


def innermost(spans: Iterable[tuple[int, int]], work: Sequence[int]) -> list[tuple[int, int]]:
    """The loops that do the work: the smallest ones that multiply or load, no two of them over the same code. Waiting
    for a barrier is a loop too, and its slow path, laid out behind everything else, looks like one around the rest."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(set(spans), key=lambda span: span[1] - span[0]):
        apart = all(high < other[0] or other[1] < low for other in found)
        if apart and any(low <= address <= high for address in work):
            found.append((low, high))
    return found


def _instructions(listing: str) -> Iterator[tuple[int, str, str]]:
    for line in listing.splitlines():
        found = INSTRUCTION.match(line)
        if found and found[2] != "NOP":
            yield int(found[1], 16), found[2], found[3]


def _inside_loops(listing: str) -> list[tuple[int, int]]:
    labels: dict[str, int] = {}
    spans = []
    waiting: list[str] = []
    for line in listing.splitlines():
        if label := LABEL.match(line):
            waiting.append(label[1])
        if not (found := INSTRUCTION.match(line)):
            continue
        address = int(found[1], 16)
        labels.update(dict.fromkeys(waiting, address))
        waiting.clear()
        target = re.search(r"\(?`\((\.L_x_\d+)\)", found[4])
        # The last instruction of every kernel branches to itself for ever: a loop of one is none.
        if found[2] == "BRA" and target and labels.get(target[1], address) < address:
            spans.append((labels[target[1]], address))
    return spans


def _width(modifiers: str) -> str:
    widths = [m for m in modifiers.split(".") if m in ("64", "128", "U8", "S8", "U16", "S16", "16", "8")]
    return widths[0] if widths else "32"


def code_digest(binary: Path) -> str:
    """Names the machine code: instructions and constants, without symbol names, line tables or where they lie.

    Two sources that differ in the names or lines alone give the same digest; so do two that the compiler made equal."""
    digest = hashlib.sha256()
    for name, content in sorted(_sections(binary.read_bytes())):
        if kind := _kind(name):
            digest.update(f"{kind}:{len(content)}:".encode() + content)
    return digest.hexdigest()[:16]


def _kind(section: str) -> str:
    """Code and data that the kernel runs on; `.nv.constant0` is the argument area and always zero. `.rodata` of AMD's
    object is the kernel's descriptor: registers, private memory."""
    for prefix in (".text", ".nv.constant", ".nv.global", ".rodata"):
        if section.startswith(prefix):
            return prefix
    return ""


def _sections(elf: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each section of a little-endian ELF64: NVIDIA's cubin and AMD's hsaco are both that."""
    if elf[:6] != b"\x7fELF\x02\x01":
        return
    start = struct.unpack_from("<Q", elf, 0x28)[0]
    each, number, names = struct.unpack_from("<HHH", elf, 0x3A)
    rows = [struct.unpack_from("<IIQQQQ", elf, start + i * each) for i in range(number)]
    for name, kind, _, _, offset, size in rows:
        if kind not in (0, 8):  # neither unused nor a section without bytes
            begin = rows[names][4] + name
            yield elf[begin : elf.index(b"\0", begin)].decode(), elf[offset : offset + size]


def _run(name: str, *arguments: str) -> tuple[str, list[str]]:
    path = tool(name)
    if path is None:
        return "", [f"{name} is not in this triton: its figures are missing"]
    try:
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=TOOL_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", [f"{name} did not run ({type(error).__name__}): its figures are missing"]
    if done.returncode:
        return "", [f"{name} failed with code {done.returncode}: its figures are missing"]
    return done.stdout, []
