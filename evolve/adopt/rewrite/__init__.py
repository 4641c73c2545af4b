"""From a file as people write it to a candidate: the same kernels, and a host function that does nothing but launch.

    reading  what the function needs of its file, and what names mean there
    cleaning what a candidate may not say, said otherwise or left out: guards, annotations, devices, constants
    launches decorators become `TUNE`, keywords and host code
    seed     the file that comes out

Comments and layout survive; every change is in the diff that the user is shown, and what the screen would refuse and
nobody here can rewrite is refused with its line.
"""
