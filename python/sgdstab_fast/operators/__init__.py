"""Positive maps of second and higher moments, and their dominant eigenvalues."""
