"""The MuJoCo tabletop: a simulated robot camera with exact ground truth."""
