"""The panel: planted defenses whose truth is known by construction, and what may be said of each.

``subjects.py``: networks and images with a closed form. ``memory.py``, ``masking.py``,
``telling.py``, ``random_answers.py`` and ``honest.py``: the defenses, by kind. ``table.py``: the
truth of each and the verdicts allowed.
"""
