"""Memory: the bytes that a batch needs, and what happens when they run out."""
