"""The part of the judge that stands beside a GPU.

The parent process (`device`, `pool`, `lease`, `nvml`) never creates a CUDA context. A fork server (`server`) with torch
preloaded and CUDA untouched forks one fresh `worker` for each candidate; it gets plans and paths of built kernels as
bounded JSON (`wire`), never a candidate's Python, and launches them through the CUDA driver (`driver`, `launch`,
`memory`). `checking` and `timing` are what the worker does with them. What the figures mean is decided elsewhere, in
`judge.check`, `judge.time` and `judge.statistics`.
"""
