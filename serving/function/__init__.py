"""The function over HTTP: names an anime's genres from its poster.

Relative imports only, so that it works inside the repository and inside the zip that is deployed.
"""
