"""From depth to 3D: back-projection, support planes and the place and extent of every segment. NumPy only."""
