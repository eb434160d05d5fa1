"""python -m rsseg."""

from rsseg.cli import main

main()
