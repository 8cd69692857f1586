"""The ROS face: thin nodes around `core`."""
