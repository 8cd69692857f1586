"""FISA: mask tokens that read the words on a frozen CLIP."""
