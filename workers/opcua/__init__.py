"""Sessions with OPC UA servers: the only importer of asyncua.

A connection, from the inside out:

seam, bounds    what we take from asyncua's inside; what a server may send
channel         one connection, used once: TCP, secure channel, session; faults: what it raises, in our words
security/       endpoints, policies, certificates, trust and users
monitoring/     subscriptions, monitored items and polling
flow, pump      a subscription's sequence of messages; publish requests out, responses into the ring
history         what was missed, read from a server that keeps it
resume          the ways back after a connection was lost
line            what a connection is wired to
tending         one session from its subscriptions to its end
session         one connection of the catalog, held for ever; sink: what it tells its owner; backoff
redundancy      which of several addresses is the healthiest, and when to move

Beside it: browsing/ (what is on a server), probe (connection test), simulation/ (a server of ours).
"""
