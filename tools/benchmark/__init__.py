"""How fast and how large the parts are, each compared with a baseline."""
