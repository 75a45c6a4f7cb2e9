"""What is on a server, and what its numbers and structures mean.

address_space   Read and Browse in batches
browse          every node once; variables: what is said about them
types           names of enumerations and fields of structures, for tags that want them; enum_names, definitions: where
"""
