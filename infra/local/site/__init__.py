"""A small MyAnimeList of invented titles and drawn posters, for the demo and the tests.

invented_titles.py invents the titles, drawing.py draws their posters, pages.py renders the pages with the layout of the
real site, and server.py serves them on 127.0.0.1. `python -m infra.local.site --port 8764` starts the server alone.
"""
