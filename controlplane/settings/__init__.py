"""The settings: sections, sources, and the corresponding settings of OpenSandbox."""
