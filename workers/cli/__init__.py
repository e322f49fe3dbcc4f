"""The command ``uniroute``: one module per noun, each of which parses and calls."""
