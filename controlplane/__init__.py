"""The control plane of Sandlot."""
