"""The goals as gates: each measures one promise at full length, or shortened by a scale."""
