"""How good generated images are, in figures that say how they were taken."""
