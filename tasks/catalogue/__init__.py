"""A catalogue of titles and their posters, from any source."""
