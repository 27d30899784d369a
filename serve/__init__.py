"""The server: gRPC in front, a batcher in the middle, engines at the back.

servicer → batcher → engine → servicer. `rpc` takes calls, `models` finds who answers, `batcher` feeds `engines`;
`loader` keeps the models in line with the disk; `backend` is all of that without a transport; `app` joins it with `rpc`
in one process, `frontends` over several. `__main__` is the command line. Nothing here imports torch, onnx, `train` or
`export`.
"""
