"""Nodes, pods and meshes made of network namespaces, for tests that run the real programs (see README.md beside this folder)."""
