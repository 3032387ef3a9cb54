"""Networks from ONNX files: read, checked, and cut into affine maps with an activation between each two."""
