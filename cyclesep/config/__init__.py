"""Typed settings: load, merge, validate and document."""
