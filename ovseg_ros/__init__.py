"""Open-vocabulary panoptic segmentation for ROS 2."""
