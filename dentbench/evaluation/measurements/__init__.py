"""Relative time, diagnostics and example images, which a record carries beside its counts."""
