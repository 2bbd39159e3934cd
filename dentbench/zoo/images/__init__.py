"""From files to images in [0, 1] with labels: arrays, pictures, corruption sets."""
