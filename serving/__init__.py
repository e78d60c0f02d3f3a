"""What leaves the house: the function and the page. Imports nothing of the project outside its own folder."""
