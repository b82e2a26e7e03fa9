"""What verifiers of other projects read and write: ONNX, VNN-LIB, and their answers."""
