"""Data sets: receives and unpacks what users push, lists what there is, and draws previews."""
