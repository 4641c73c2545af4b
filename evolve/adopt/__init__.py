"""Taking in what a user already has: `evolve init`.

`plain.py` writes a problem that runs at once; `model.py` reads a KernelBench file; the rest adopts a kernel as it is:

    observe → rewrite → evaluator
    the original and the reference run side by side, in a child process (`observing.py`, with `own.py`, which the
    written problem uses too); the file becomes a candidate (`rewrite/`); what was seen is written down (`evaluator.py`)

The user's files are imported, because they are hers and she runs them herself: never in this process, and never as a
candidate. What cannot be adopted is refused with the reason and the line. Nothing here judges: the seed that comes out
goes through the whole judge like any other.
"""
