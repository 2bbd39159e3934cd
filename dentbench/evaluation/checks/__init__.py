"""The checks of a run, which its record carries."""
