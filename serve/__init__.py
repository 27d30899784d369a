"""The server: gRPC in front, a batcher in the middle, engines at the back.

servicer → batcher → engine → servicer. `app` puts the parts together and takes them down again; `__main__` is the
command line. Nothing here imports torch, onnx, `train` or `export`.
"""
