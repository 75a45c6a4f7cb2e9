"""The gRPC side: the process that answers readings, and the client of the command line. The only importer of grpc.

front       the process: start, health, reflection, limits, graceful stop
readings    the service
requests    what a request asks for, checked; page tokens
columns     a Batch as ReadingColumns and back
identity    whose request it is
status      the error tree as gRPC statuses, and back
client      the typed client
"""
