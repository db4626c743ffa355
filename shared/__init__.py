"""The contract between the services: records, stores, configs and settings. Without torch, onnxruntime and FastAPI."""
