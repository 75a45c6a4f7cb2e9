"""OPC UA: the only importer of asyncua."""
