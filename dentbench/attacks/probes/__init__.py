"""Checks that ask the defense itself, before it is attacked."""
