"""How the embedded models were made: ``python -m dentbench.zoo.training.train``."""
