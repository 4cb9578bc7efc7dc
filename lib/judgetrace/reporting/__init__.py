"""What runs have come to, as one self-contained page."""
