"""Drivers for what the host offers: character streams, and sources of keys and pointer events."""
