"""Identify a user's model or defense: its code and its settings, as a hash."""
