"""From a wrong answer to what is probably wrong with the kernel: places and patterns, in words for the next attempt.

Only read when an answer has failed, so it may be slow. A hint is a guess and says so.
"""

from __future__ import annotations

import torch

TILE = 128
SAID_EXACT = {"one_hot": "one-hot times integers", "integers": "integers times one-hot"}


def place(wrong: torch.Tensor) -> str:
    """The first true element's index."""
    flat = int(wrong.reshape(-1).to(torch.uint8).argmax())
    index: list[int] = []
    for size in reversed(wrong.shape):
        index.insert(0, flat % size)
        flat //= size
    return str(index)


def where(error2: torch.Tensor, rows: torch.Tensor, together: int, tiles: torch.Tensor) -> str:
    """The worst tile and the worst row."""
    _, height, width = error2.shape
    flat = int(tiles.argmax())
    tile_row, tile_column = flat // tiles.shape[2] % tiles.shape[1] * TILE, flat % tiles.shape[2] * TILE
    batch = flat // (tiles.shape[1] * tiles.shape[2])
    row = int(rows.argmax()) * together
    matrix = f"matrix {batch}, " if error2.shape[0] > 1 else ""
    last_row, last_column = min(tile_row + TILE, height) - 1, min(tile_column + TILE, width) - 1
    tile = f"{matrix}rows {tile_row}-{last_row}, columns {tile_column}-{last_column} ({float(tiles.max()):.2e})"
    return f"Worst tile: {tile}; worst row: {row % height} ({float(rows.max()):.2e})."


def reason(out: torch.Tensor, ref: torch.Tensor, error2: torch.Tensor, bound: float, ratio: float, family: str) -> str:
    """The first pattern that fits."""
    if not bool(out.any()):
        return "The output is all zeros: is it ever stored to?"
    edge = _edge(error2, ref, 8 * bound)
    if edge:
        return edge
    if family == "last_tile":
        return "What differs is the tail of the summed dimension: the loop seems to leave out its last, partial turn."
    whole = _whole(out, ref)
    if whole:
        return whole
    if ratio < 30:
        return "The structure is right and the precision is not: accumulate in float32 and round once, at the store."
    return ""


def _edge(error2: torch.Tensor, ref: torch.Tensor, most: float) -> str:
    """Only the last rows or columns wrong: the mask of a ragged tile."""
    for dim, name in ((-2, "rows"), (-1, "columns")):
        other = -1 if dim == -2 else -2
        size = error2.shape[dim]
        found = error2.sum((0, other)) / (ref.square().sum((0, other)) + 1e-300)
        bad = found > most**2
        first = int(bad.to(torch.uint8).argmax())
        if size > 1 and first > 0 and bool(bad[first:].all()) and (size - first) <= max(TILE * 2, size // 2):
            return f"Only the last {size - first} {name} are wrong: check the mask of the ragged last tile."
    return ""


def _whole(out: torch.Tensor, ref: torch.Tensor) -> str:
    """The right answer in the wrong clothes."""
    factor = float((out * ref).sum() / ref.square().sum().clamp_min(1e-300))
    rest = float((out - factor * ref).norm() / ref.norm().clamp_min(1e-300))
    if rest < 0.02 * abs(factor) and abs(factor - 1) > 0.02:
        return f"Every element is about {factor:.3g} times the reference: a scale is missing or applied twice."
    if out.shape[-1] == out.shape[-2] and float((out.mT - ref).norm() / ref.norm().clamp_min(1e-300)) < 0.02:
        return "It is the transpose of the reference: strides or indices of one operand are swapped."
    return ""


def unwritten(wrong: torch.Tensor) -> str:
    share = float(wrong.to(torch.float32).mean())
    if share == 1.0:
        return "All of them: either nothing is stored, or something outside the tensors is read."
    return (
        "Outputs start as NaN and what surrounds the inputs is NaN: an element was never stored, or a load has no mask."
    )


def bits(out: torch.Tensor, ref: torch.Tensor) -> str:
    """How many bits of the significand survived."""
    error = ((out.to(torch.float64) - ref).abs() / ref.abs().clamp_min(1e-300))[ref != 0]
    if not error.numel() or not bool((error < 0.1).all()):
        return ""
    kept = int(torch.floor(-torch.log2(error.max().clamp_min(1e-30))))
    return f"About {kept} bits of the significand survive: an operand or an intermediate is rounded to a narrower type."
