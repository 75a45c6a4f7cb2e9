"""What happens to a reading, from OPC UA bytes to a row.

Imports no asyncua, no grpc and no uvloop, and forks nothing: processes and the outside world live in `workers`.
"""
