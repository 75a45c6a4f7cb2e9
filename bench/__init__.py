"""One claim a module: what is promised, measured against a baseline in the same run. `python -m bench` lists them."""
