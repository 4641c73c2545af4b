"""The child process of `evolve init`: imports the user's files, runs original and reference, and answers with JSON.

It has no jail: the files are the user's own, and she runs them anyway. It is a process of its own because a file may
do anything while it is imported, because Triton is either interpreted or not from its first import on, and because the
parent must never open a CUDA context.
"""
