"""The Cloud Function: predicts the genres of an anime from its poster, over HTTP.

The package uses relative imports only, so that it works in the repository and in the deployed zip.
"""
