"""OMTSeg (Chen et al., ICIP 2024): BEiT-3 reads an image and all words at once, of which masks and names are made."""
