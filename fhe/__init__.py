"""Encrypted models: bundles, keys, ciphertexts, and the workers that compute on what they cannot read."""
