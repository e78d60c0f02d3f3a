"""Tables of titles, such as people publish as CSV files, as a `Source`."""
