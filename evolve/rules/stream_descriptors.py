"""R3 for kernels with several dots: the blocks of rows that stream through an attention loop, by the TMA engine.

A descriptor is made for each tensor that streams, before the loop and from where this program's part begins. That start
must be a multiple of 16 bytes, which the host sees to through the parameters that it is a multiple of.
"""

from __future__ import annotations

import re

from evolve.rules.base import Applied, Context, No
from evolve.rules.edits import Edits
from evolve.rules.match import Tile, on_host
from evolve.rules.source import Source
from evolve.rules.streams import Stream, stream
from evolve.rules.symbols import Vec, atom, factors, identifiers

REASON = (
    "Stream {names} through tensor descriptors: the TMA engine copies whole blocks into shared memory, so that no "
    "registers and no instructions go into addresses and masks."
)


def rewrite(source: Source, context: Context) -> Applied:
    found = stream(source)
    if "tl.make_tensor_descriptor" in source.code(found.kernel.node):
        raise No(f"{found.kernel.name} already uses tensor descriptors.")
    tiles = [t for t in found.tiles() if _moves(found, t)]
    if not tiles:
        raise No(f"No two-dimensional tile is loaded in the loop of {found.kernel.name}.")
    switch, wanted = source.fresh("USE_DESC"), source.fresh("DESCRIPTORS")
    edits = Edits(source)
    edits.constexpr(found.kernel, found.launch, switch, switch)
    edits.tunable(wanted, True, (True, False))
    guards, made = [wanted], [f"if {switch}:"]
    for tile in tiles:
        guards += [g for g in _guards(found, tile) if g not in guards]
        descriptor = source.fresh(_stem(tile) + "_desc")
        made += [f"    {row}" for row in _made(found, tile, descriptor)]
        load = f"{tile.target} = {_read(tile, descriptor)}"
        old = "\n".join(f"    {row}" for row in source.code(tile.line).splitlines())
        edits.replace(tile.line, f"if {switch}:\n    {load}\nelse:\n{old}\n")
    edits.before(found.loop.node, "\n".join(made) + "\n")
    for tile in found.kept():
        guards += [g for g in _kept(edits, found, tile, switch) if g not in guards]
    condition = "\n    and ".join(guards)
    note = "# A descriptor wants one contiguous axis, and rows and parts that start at multiples of 16 bytes."
    edits.before(found.launch.statement, f"{note}\n{switch} = (\n    {condition}\n)\n")
    names = " and ".join(f"`{t.target}`" for t in tiles)
    return Applied(source=edits.result(), hypothesis=REASON.format(names=names), signature={"UTMALDG": ">0"})


def _kept(edits: Edits, found: Stream, tile: Tile, switch: str) -> list[str]:
    """A block that stays (the queries) as well, where it can: warp specialization wants every operand so."""
    try:
        guards = _guards(found, tile)
        descriptor = found.source.fresh(_stem(tile) + "_desc")
        made = [*_made(found, tile, descriptor), f"{tile.target} = {_read(tile, descriptor)}"]
    except No:
        return []
    old = found.source.code(tile.line).splitlines()
    edits.replace(tile.line, "\n".join([f"if {switch}:", *_indent(made), "else:", *_indent(old)]) + "\n")
    return guards


def _indent(rows: list[str]) -> list[str]:
    return [f"    {row}" for row in rows]


def _stem(tile: Tile) -> str:
    return tile.base.removesuffix("_ptr").removesuffix("_ptrs").strip("_") or tile.base


def _moves(found: Stream, tile: Tile) -> bool:
    return any(found.loop.var in identifiers(vec.offset) for vec in tile.axes)


def _rows_first(tile: Tile) -> tuple[int, int]:
    """Which axis is the tensor's rows, which its contiguous elements."""
    first, last = (v.stride for v in tile.axes)
    if (first == "1") == (last == "1"):
        raise No(f"Neither stride of `{tile.base}`, or both, is 1.")
    return (1, 0) if first == "1" else (0, 1)


def _guards(found: Stream, tile: Tile) -> list[str]:
    pointer = found.launch.arguments.get(tile.base)
    if pointer is None:
        raise No(f"The launch does not give `{tile.base}`.")
    row, _ = _rows_first(tile)
    size = f"{atom(pointer)}.element_size() % 16 == 0"
    steps = [tile.axes[row].stride, *(_known(found, scalar, tile) for scalar in tile.scalars)]
    return [f"{atom(on_host(found.launch, found.kernel, step))} * {size}" for step in dict.fromkeys(steps)]


def _known(found: Stream, scalar: str, tile: Tile) -> str:
    """The parameters that an offset is a multiple of: enough of them, and the host can see its alignment."""
    if found.depends(scalar, found.loop.var) and found.loop.var in scalar:
        raise No(f"`{tile.base}` is read at an offset ({scalar[:40]}) that moves with the loop.")
    product = factors(found.scope.resolved(scalar, found.loop.at))
    kept = [f for f in product if f in found.kernel.params and not found.scope.of(f)]
    if not kept:
        raise No(f"`{tile.base}` is read at an offset ({scalar[:40]}) whose alignment is not known.")
    return " * ".join(kept)


def _extent(found: Stream, tile: Tile, axis: int) -> str:
    vec: Vec = tile.axes[axis]
    extent = tile.extents[axis]
    if extent is None and vec.offset == "0" and vec.modulo is None:
        extent = vec.block
    if extent is None or vec.modulo is not None:
        raise No(f"No mask of `{tile.base}` says where the tensor ends.")
    moved = [
        n for n in identifiers(extent) | identifiers(vec.stride) if found.scope.of(n) or n not in found.kernel.params
    ]
    if moved or identifiers(vec.block) - found.kernel.constexprs:
        raise No(f"The extents, strides or blocks of `{tile.base}` are computed in the kernel.")
    return extent


def _made(found: Stream, tile: Tile, descriptor: str) -> list[str]:
    other = re.search(r"other=([^,)]+)", found.source.code(tile.line))
    if other and other[1].strip() not in ("0", "0.0"):
        raise No(f"Masked elements of `{tile.base}` are not zero, which a descriptor would make them.")
    row, column = _rows_first(tile)
    rows, columns = _extent(found, tile, row), _extent(found, tile, column)
    start = " + ".join([tile.base, *(atom(s) for s in tile.scalars)])
    return [
        f"{descriptor} = tl.make_tensor_descriptor(",
        f"    {start},",
        f"    shape=[{rows}, {columns}],",
        f"    strides=[{tile.axes[row].stride}, 1],",
        f"    block_shape=[{tile.axes[row].block}, {tile.axes[column].block}],",
        ")",
    ]


def _read(tile: Tile, descriptor: str) -> str:
    row, column = _rows_first(tile)
    load = f"{descriptor}.load([{tile.axes[row].offset}, {tile.axes[column].offset}])"
    return load if row == 0 else f"{load}.T"
