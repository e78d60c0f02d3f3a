"""Image decoding, the model bundle, their errors, and file helpers.

They are shared by training, scoring, the command line and the function. The package uses relative imports only, so that
it works in the repository and in the deployed zip.
"""
