"""What training, scoring, the command line and the function share: image decoding, the model and their errors.

Relative imports only, so that it works inside the repository and inside the zip that is deployed.
"""
