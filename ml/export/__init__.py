"""A trained network as a bundle: graph, int8, figures and model card."""
