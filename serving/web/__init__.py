"""The page people use: a poster goes in, its genres are shown as bars."""
