"""From a winner in a journal to a package that one imports in production.

`package.py` writes it, `templates/` is what stands in every one, `signature.py` and `source.py` read a problem for what
its callers may rely on, `table.py` is dispatch.json, `trial.py` is the fresh process that uses the package as a user
would. Who opens the judge and in what order things happen stands in `evolve/exporting.py`, beside the command line.
"""
