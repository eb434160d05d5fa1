"""Where things are: integer windows in grids.  Pure geometry, without pixels."""

from rsseg.geo.tiling import cover, draw
from rsseg.geo.window import Window

__all__ = ["Window", "cover", "draw"]
