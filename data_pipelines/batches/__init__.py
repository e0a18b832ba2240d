"""windows -> microbatches of one rank."""
