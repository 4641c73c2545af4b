"""The sources that rules are tried on: our seed, and kernels in other people's style."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
KERNELS = Path(__file__).parent / "kernels"


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


# name -> (source, entry, tunables that make tiles small enough for several of them to be needed)
PRODUCTS = {
    "seed": (text(ROOT / "seeds" / "matmul.py"), "matmul", {"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 32}),
    "axes": (text(KERNELS / "axes.py"), "multiply", {"TILE_R": 32, "TILE_C": 32, "TILE_D": 32}),
    "inline": (text(KERNELS / "inline.py"), "multiply", {"BM": 32, "BN": 32}),
    "grouped": (text(KERNELS / "grouped.py"), "multiply", {"BLOCK_SIZE_M": 32, "BLOCK_SIZE_N": 32, "BLOCK_SIZE_K": 32}),
}
OTHERS = {
    "softmax": (text(KERNELS / "softmax.py"), "softmax"),
    "attention": (text(KERNELS / "attention.py"), "attention"),
    "causal": (text(KERNELS / "causal.py"), "causal"),
    "decode": (text(KERNELS / "decode.py"), "decode"),
    "rmsnorm": (text(KERNELS / "rmsnorm.py"), "rms_norm"),
    "gelu": (text(KERNELS / "gelu.py"), "linear"),
    "stats": (text(KERNELS / "stats.py"), "softmax"),
    "twice_flat": (text(KERNELS / "twice_flat.py"), "linear"),
    "twice_rows": (text(KERNELS / "twice_rows.py"), "linear"),
    "twice_tiles": (text(KERNELS / "twice_tiles.py"), "linear"),
}
# name -> what it computes and tunables that make blocks small enough for several of them to be needed
MEANING: dict[str, tuple[str, dict[str, int]]] = {
    "softmax": ("softmax", {}),
    "attention": ("attention", {"BM": 32, "BN": 32}),
    "causal": ("causal", {"ROWS": 32, "COLS": 16}),
    "decode": ("decode", {"STEP": 16}),
    "rmsnorm": ("rmsnorm", {}),
    "gelu": ("gelu", {"TM": 32, "TN": 32, "TK": 32}),
    "stats": ("softmax", {"BLOCK": 32}),
    "twice_flat": ("gelu", {"TM": 32, "TN": 32, "TK": 32}),
    "twice_rows": ("gelu", {"TM": 32, "TN": 32, "TK": 32}),
    "twice_tiles": ("gelu", {"TM": 32, "TN": 32, "TK": 32}),
}
EVERY = {name: entry[0] for name, entry in (*PRODUCTS.items(), *OTHERS.items())}
