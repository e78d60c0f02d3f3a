"""The web page for people: it shows the predicted genres of a poster as bars."""
