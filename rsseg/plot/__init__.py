"""Scenes as pictures: modalities, valid maps, target and predictions side by side."""
