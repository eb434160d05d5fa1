"""Model + scene → strips of probabilities → georeferenced maps."""
