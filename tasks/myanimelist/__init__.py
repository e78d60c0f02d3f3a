"""MyAnimeList: addresses of its pages and their parsers."""
