"""Pages about an expanded dataset, and the metrics on them."""
