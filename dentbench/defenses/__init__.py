"""Defenses beside dent, built in or user-defined, as ``adapt`` and ``predict`` if it can."""
