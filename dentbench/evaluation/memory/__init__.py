"""Memory: the bytes that a batch needs, and a run's answer when they run out."""
