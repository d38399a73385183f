"""From seed samples to an expanded dataset."""
