"""A small MyAnimeList of invented titles and drawn posters, for the demo and the tests.

invented_titles.py invents the titles, drawing.py draws their posters, pages.py renders the pages with the layout of the
real site, and server.py serves them on 127.0.0.1. `demo` and `up` start it as a process of its own, with
`python -m infra.local.site --port 8764`; tests run it in a thread.
"""
