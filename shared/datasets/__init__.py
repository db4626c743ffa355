"""Reads folders of images: which files form which class and split, their pixels, and a report of all problems."""
