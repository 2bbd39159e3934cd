"""How networks are computed: memory, its layout, precision, compilation; their answers stay."""
