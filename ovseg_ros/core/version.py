"""The version of this package, as setup.py and package.xml have it; a source checkout has no other place to ask."""

VERSION = "0.1.0"
