"""Checks of a user's network, defense, data and points on a few images, before a run."""
