"""Reading MyAnimeList: its pages, the catalogue made of them, and its posters."""
