"""Device meshes and the table that shards parameters over them."""
