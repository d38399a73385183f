"""Runners of shard tasks. An engine decides where a task runs, and nothing about its result."""
