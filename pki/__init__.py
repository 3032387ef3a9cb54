"""Who is who: the authority, the certificate profile, key files and trust."""
