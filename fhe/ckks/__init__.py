"""CKKS (Cheon, Kim, Kim, Song 2017) with SEAL, through TenSEAL: approximate arithmetic on reals, for linear and polynomial
networks."""
