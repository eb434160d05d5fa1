"""Data sets: name → (root, config) → Scenes."""

from rsseg.datasets.folder import Folder, load, scenes

__all__ = ["Folder", "load", "scenes"]
