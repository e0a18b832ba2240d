"""What every kind of source reads with: stored -> unpack (members) -> decode -> Document, and the tally of it all."""
