"""Version 1 of the API: `readings_pb2` has the messages, `readings_pb2_grpc` the service. Generated, never edited."""
