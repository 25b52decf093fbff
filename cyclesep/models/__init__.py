"""Neural networks: separators and discriminators."""
