"""The expanded folder: tar shards, index, manifest, reader, card."""
