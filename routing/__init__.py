"""The pure core of uniroute: which LLM should answer a prompt, and what that is worth.

Values in, values out: nothing here reads a clock, a file, an environment or a global random state.
"""
