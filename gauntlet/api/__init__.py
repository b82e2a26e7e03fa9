"""The Python interface: evaluate and certify a model in a script or notebook, with the records of the command line."""
