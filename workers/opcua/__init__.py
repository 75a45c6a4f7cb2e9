"""Sessions with OPC UA servers: the only importer of asyncua.

session.Connector   one connection, held for ever: connect, subscribe, pump, back off, again
channel.Channel     one connection, used once: secure channel and session through asyncua's services
items, mend         the monitored items, made in batches, and those that are missing tried again
poll.Poller         tags that are read again and again
nodes, resolve      how nodes are called on the wire, and what a server must be asked for that
monitoring          what became of each tag, in columns
limits              what a server says that it can take
pump.Pump           publish requests out, publish responses into the ring
redundancy          which of several addresses is the healthiest, and when to move
types               names of enumerations and structures' fields for tags that want them; enum_names, definitions: where
browse.Walk         what is on a server: every node once; variables: what is said about them
address_space       Read and Browse in batches, for types and browse
sink                what a connection tells its owner
seam                what we take from asyncua's inside
backoff             how long to wait after a failure
"""
