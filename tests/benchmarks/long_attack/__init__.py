"""An independent long attack on dent: how many images does a worst case call right that are not?

``python -m tests.benchmarks.long_attack prepare|attack|report [OPTIONS]``. ``prepare`` evaluates
dent by every protocol and keeps what the attack needs in one file for each case; ``attack`` needs
that file, torch and NumPy only, can be stopped at any time, goes on where it was, and may run as
several processes (``--share 0/4``); ``report`` writes results/benchmarks/long-attack.json.

Nothing of the attack is shared with DentBench's own: it is plain gradient ascent with momentum and
a step that falls as a cosine, on the margin and on the cross-entropy, along the published gradient
and through every adaptation step, from everything that the evaluation stored and from random
points, which follow the static network for their first quarter. Where images are coupled all
images of the batch move, in aid of those that are still right. An image is broken when dent, asked
afresh about the whole declared batch, is wrong on it.
"""
