"""Checkpoints and run folders: save, find and load them, on this machine or in S3."""
