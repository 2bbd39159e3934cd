"""Models and data: from a name or a file to a network with its weights and images with labels.

``models``, ``datasets`` and ``denoisers`` are the doors; the rooms hold the cards of all that can
be named, readers of images, RobustBench's networks, training, and downloads.
"""
