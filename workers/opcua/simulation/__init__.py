"""Two oil wells to try the engine with: an OPC UA server of ours (simulator), and what its numbers do (wells)."""
