"""Exports torch networks to ONNX and verifies that both compute the same."""
