"""The version of the engine, once."""

VERSION = "0.1.0"
