"""The REST side: the routes of the earlier service, for clients that speak JSON. The only importer of FastAPI.

server      the process: start, limits, readiness, graceful stop
app         the routes
schemas     what requests and answers look like, in JSON and in OpenAPI
rows        a page of readings as JSON
gate        what every request has in common: request id, how many at once, how long
answers     the error tree as HTTP answers
tenancy     the caller's tenant and the connections to its database
"""
