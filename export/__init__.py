"""From checkpoint to bundle: convert, check the graph, compare the serving engine with the reference, publish.

`python -m export.to_onnx best.pt` and `python -m export.to_trt best.pt` make bundles, `export.verify` checks one again,
`export.to_triton` hands one on to Triton, and `export.doctor` says what this machine can do. Nothing is published that
does not agree with the network as PyTorch computes it.
"""
