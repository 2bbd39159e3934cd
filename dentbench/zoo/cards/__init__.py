"""The facts of every model and data set that can be named. Torch-free."""
