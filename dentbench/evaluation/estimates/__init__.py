"""Estimates of a run's cost in passes, seconds and memory, before it begins."""
