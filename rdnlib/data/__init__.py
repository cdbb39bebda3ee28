"""Data sets: the embedded `dolls`, torchvision's, and folders of photographs of one's own; and their transforms."""

from rdnlib.data.datasets import ImageSet, Splits, fingerprint, load, names

__all__ = ["ImageSet", "Splits", "fingerprint", "load", "names"]
