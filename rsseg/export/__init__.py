"""What leaves rsseg for other programs: maps as polygons, models and scenes in exchange formats."""
