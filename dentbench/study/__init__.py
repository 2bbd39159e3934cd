"""From a user's options to specs, and on to their records."""
