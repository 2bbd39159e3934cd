"""The committed studies: what runs them, and what checks that they can be run."""
