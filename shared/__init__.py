"""The contract between the services: records, stores, configs and settings. No torch, onnxruntime or FastAPI."""
