"""Training with Concrete ML, in an environment of its own (`make .venv-train`): from a table to the parts of a bundle."""
