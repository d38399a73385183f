"""Paths of modules that moved in 0.2, such as `gif_datasets.rng`; they go with 0.3. Use `gif_datasets.extend`."""
