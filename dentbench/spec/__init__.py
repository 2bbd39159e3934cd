"""Specs: frozen, torch-free values that hold everything that determines a number."""
