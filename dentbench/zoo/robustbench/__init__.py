"""RobustBench's networks: their architectures, checkpoints, and the table of them."""
