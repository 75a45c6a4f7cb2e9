"""The gRPC API as Python: what protoc made from the .proto files beside it."""
