"""rsseg: land-cover maps from several sensors at once, also when some of them are missing."""

__version__ = "0.1.0"
