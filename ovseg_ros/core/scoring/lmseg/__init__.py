"""LMSeg: CLIP's and SAM's features, compared with words, and refined over pixels and over words."""
