"""Train, evaluate, segment and measure, without ROS."""
