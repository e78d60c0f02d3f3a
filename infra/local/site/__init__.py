"""A small MyAnimeList of invented titles and drawn posters, for the demo and the tests.

invented_titles.py invents the titles, drawing.py draws their posters, pages.py lays them out as the real site does, and
server.py serves them on loopback. `python -m infra.local.site --port 8764` serves it alone.
"""
