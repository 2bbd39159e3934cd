"""Defenses beside dent, built in or one's own, each as ``adapt`` and ``predict`` where it can."""
