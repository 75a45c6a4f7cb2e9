"""Who runs the engine: processes, the command line, OPC UA sessions, gRPC."""
