"""The segmenter: torch and NumPy only, no ROS."""
