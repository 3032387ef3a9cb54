"""TFHE by Zama's Concrete: circuits on small integers, computed exactly. Linear models, trees, small networks."""
