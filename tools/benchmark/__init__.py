"""How fast and how large the parts are, each beside the customary way of doing the same."""
