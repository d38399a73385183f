"""Files, stores, the Hub, the cache, digests and images."""
