"""The function that names an anime's genres from its poster: pixels, model, HTTP.

This package works the same inside the repository and alone inside the zip that is deployed, so it uses
relative imports only. What is trained, scored, predicted on the command line and served goes through `image`
and `model`.
"""
