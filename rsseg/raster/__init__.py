"""Room of rsseg."""
