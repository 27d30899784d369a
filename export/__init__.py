"""From checkpoint to bundle: convert, check the graph, compare the serving engine with the reference, publish.

`python -m export.to_onnx best.pt` and `python -m export.to_trt best.pt` are the commands. Nothing is published that
does not agree with the network as PyTorch computes it.
"""
