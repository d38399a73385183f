"""Loading: the DataLoader, its datasets and the order of samples."""
