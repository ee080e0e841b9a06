"""A trained model in the formats of other programs, which need nothing of gcn_jax to run it."""
