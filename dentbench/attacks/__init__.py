"""Attacks on anything that is a defense, and the protocols that use them."""
