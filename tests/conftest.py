"""One thread per test process: the tensors are tiny, and threads would only wait for each other."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; subprocesses inherit it
