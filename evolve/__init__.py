"""evolve finds faster Triton kernels by itself; start reading at `loop.py`."""

__version__ = "0.1.0"
