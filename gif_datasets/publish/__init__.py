"""Exports, and what goes to the Hugging Face Hub."""
