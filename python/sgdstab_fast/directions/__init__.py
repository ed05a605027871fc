"""The projective chain: directions of displacements, and how they forget where they started."""
