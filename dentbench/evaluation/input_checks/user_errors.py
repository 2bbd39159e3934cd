"""Report in words the errors of a model in the middle of a run."""

from __future__ import annotations

import traceback

from torch.autograd import graph

from dentbench.attacks.counting import CountedNetwork
from dentbench.errors import DentBenchError, ModelError, first_line
from dentbench.evaluation.input_checks.first_answers import advice


def errors_in_words(network: CountedNetwork, error: Exception) -> Exception:
    """Return an error in one sentence if the model or a gradient raised it, else as it is.

    Any other is a fault of this package, whose traceback is wanted.
    """
    if isinstance(error, DentBenchError):
        return error
    passed = {frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)}
    if CountedNetwork.answers.__code__ in passed:
        text = f"the model fails: {first_line(error)}{advice(network, error)}"
    elif graph._engine_run_backward.__code__ in passed:
        text = f"the gradient of an answer cannot be computed: {first_line(error)}; detach the "
        text += "answers that have none, then it is zero"
    else:
        return error
    return ModelError(f"{text}; every finished batch is kept")
