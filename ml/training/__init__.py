"""Training and comparing candidate networks."""
