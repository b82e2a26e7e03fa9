"""Certificates: what no attack inside a ball can change, with the confidence of that claim."""
