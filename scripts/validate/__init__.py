"""Cases, their measurement on a test bed, their predictions, and the tables that hold one against the other."""
