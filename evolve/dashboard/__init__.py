"""The web page on the journal: how the best kernel came to be, live while a run writes.

It reads journals and never the loop, needs neither torch nor a GPU, writes nothing, and asks nothing of the network.
`serve.py` starts it, `app.py` has the addresses; a page is one module (`candidate.py`) and one template of its name.
"""
