"""The attention systems, one file each, and what they share: the contract and the checkpoint."""
