"""Where the routers of a model are, and how to read what they decided."""
