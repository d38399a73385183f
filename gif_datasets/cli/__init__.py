"""The command line."""

from gif_datasets.cli.parser import build_parser, main

__all__ = ["build_parser", "main"]
