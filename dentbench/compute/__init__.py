"""How networks are computed: memory, its layout, precision, compilation; not what they compute."""
