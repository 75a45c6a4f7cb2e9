"""Sessions with OPC UA servers: the only importer of asyncua.

session.Connector   one connection, held for ever: connect, subscribe, pump, back off, again
channel.Channel     one connection, used once: secure channel and session through asyncua's services
subscribe           the subscription and its monitored items
pump.Pump           publish requests out, publish responses into the ring
sink                what a connection tells its owner
seam                what we take from asyncua's inside
backoff             how long to wait after a failure
"""
