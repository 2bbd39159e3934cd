"""The engine: tensors in, tensors out; knows no files, no command line and no attacks."""
