"""How tags become monitored items, or are polled: in batches, within a server's limits, and never failed by one node.

limits      what a server says that it can take
nodes       how nodes are called on the wire; resolve, paths: what a server must be asked for that
ways        how a tag is read: its own settings, its connection's, the engine's
subscribe   subscriptions
items       monitored items, made in batches; mend: those that are missing, tried again
outcome     what became of each tag, in columns
poll        tags that are read again and again
"""
