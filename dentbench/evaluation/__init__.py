"""Evaluate specs: map over declared batches, reduce to counts, write records."""
