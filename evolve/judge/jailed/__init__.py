"""What runs inside the jail: the server, the recorder of launches, the lowering to TTIR, the interpreter's run.

Nothing here is trusted by the rest of the judge. Whatever leaves these modules is text (and, from the interpreter,
bytes) that a trusted stage holds against its own knowledge. They import the standard library, torch and triton, and
nothing of evolve but each other: the jail shows them nothing else.
"""
