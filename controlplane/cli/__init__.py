"""The commands of `sandlot`."""
