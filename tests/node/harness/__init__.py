"""Nodes, pods and meshes made of network namespaces, for tests that run the real programs (tests/README.md)."""
