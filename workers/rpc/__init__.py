"""The gRPC side: the process that answers, and the client of the command line. The only importer of grpc.

front       the process: start, health, reflection, limits, graceful stop
calls       what all services share: the caller's tenant, its share of the calls, its connections
readings    the service of readings
gaps        the service of gaps
quarantine  the service of the quarantine
requests    what a request asks for, checked
page_tokens where a page of gaps or of the quarantine ended
columns     a Batch as ReadingColumns and back
identity    whose request it is
status      the error tree as gRPC statuses, and back
client      the typed client
"""
