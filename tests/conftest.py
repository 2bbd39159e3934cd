"""One thread per test process: the tensors are tiny, and threads would only wait for each other.

And no cache, unless a test makes one: what is faster is not timed, and a rule says it.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; subprocesses inherit it
os.environ["DENTBENCH_CACHE"] = f"{os.devnull}/no-cache"
