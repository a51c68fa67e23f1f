"""What a LivenessServer is made of; `http1`, `listener`, `slate` and `sidecar` also make a process of their own."""
