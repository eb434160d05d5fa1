"""Pixels in and out of files: what is valid is told with every read."""
