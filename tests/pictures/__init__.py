"""The README's pictures, made of real runs: ``make pictures``."""
