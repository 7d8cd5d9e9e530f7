"""The version of the distribution, in one place: setup.py, manifests and file metadata read it here."""

VERSION = "0.1.0"
