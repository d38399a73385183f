"""From a block of seeds to finished samples: candidates, guidance, draws, checks."""
