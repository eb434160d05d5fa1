"""Parts of the CLIP method: image tower, adapters, texts, and what takes their word to the backbone."""
