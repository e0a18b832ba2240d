"""Token ids on disk, hashed; read as windows."""
