"""Generates a data set with a published model: in onnxruntime, shard by shard, resumable. Imports no torch."""
