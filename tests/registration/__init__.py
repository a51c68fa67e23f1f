"""Registration in Consul, etcd, and whatever answers like them."""
