// Never compiled: a target needs a source for its flags to be asked for.
