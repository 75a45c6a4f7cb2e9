"""The gRPC side: the front process that answers readings, and the client of the command line. The only importer of grpc.

    front.py      the process: start, health, reflection, limits, graceful stop
    readings.py   the service: each request checked, answered, its errors turned into statuses
    columns.py    a Batch as ReadingColumns and back
    identity.py   whose request it is
    status.py     the error tree as gRPC statuses, and back
    client.py     the typed client
"""
