"""Protocols, one file per family: the ways to attack a defense."""
