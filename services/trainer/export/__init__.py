"""From torch to ONNX, with the proof that both agree."""
